#include "isa.h"

#include <cstdlib>
#include <string>
#include <vector>

#include <c10/util/Exception.h>
#include <torch/library.h>

namespace ussfast {

extern const Kernels kernels_generic;
#ifdef __x86_64__
extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512_vnni, kernels_avx512_bf16;
#endif

namespace {

struct Set {
  const char* name;
  const Kernels* kernels;
};

// What this CPU can do, poorest first; each includes the ones before it.
std::vector<Set> available() {
  std::vector<Set> sets = {{"generic", &kernels_generic}};
#ifdef __x86_64__
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return sets;
  sets.push_back({"avx2", &kernels_avx2});
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return sets;
  sets.push_back({"avx512", &kernels_avx512});
  if (!__builtin_cpu_supports("avx512vnni")) return sets;
  sets.push_back({"avx512_vnni", &kernels_avx512_vnni});
  if (__builtin_cpu_supports("avx512bf16")) sets.push_back({"avx512_bf16", &kernels_avx512_bf16});
#endif
  return sets;
}

Set decide() {
  const auto sets = available();
  const char* forced = std::getenv("USSFAST_FORCE_ISA");
  if (forced == nullptr || *forced == '\0') return sets.back();
  for (const Set& set : sets)
    if (set.name == std::string(forced)) return set;
  const std::string known = "generic, avx2, avx512, avx512_vnni, avx512_bf16";
  TORCH_CHECK((known + ",").find(std::string(forced) + ",") != std::string::npos, "USSFAST_FORCE_ISA=", forced,
              ": expected one of ", known);
  TORCH_CHECK(false, "USSFAST_FORCE_ISA=", forced, ": this CPU has only ", sets.back().name);
}

const Set& chosen() {
  static const Set set = decide();
  return set;
}

std::string cpu_isa() { return chosen().name; }
// Columns of a panel, see kernels/gemm.h: for who packs weights in Python.
int64_t cpu_panel() { return 2 * chosen().kernels->lanes; }

}  // namespace

const Kernels& kernels() { return *chosen().kernels; }

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def("_cpu_isa() -> str", &cpu_isa);
  m.def("_cpu_panel() -> int", &cpu_panel);
}

}  // namespace ussfast
