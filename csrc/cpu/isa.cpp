#include "isa.h"

#include <cstdlib>
#include <string>

#include <c10/util/Exception.h>
#include <torch/library.h>

namespace ussfast {
namespace {

Isa best() {
#ifdef USSFAST_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::generic;
}

const char* name(Isa value) {
  return value == Isa::avx512 ? "avx512" : value == Isa::avx2 ? "avx2" : "generic";
}

Isa decide() {
  const Isa have = best();
  const char* forced = std::getenv("USSFAST_FORCE_ISA");
  if (forced == nullptr || *forced == '\0') return have;
  for (const Isa value : {Isa::generic, Isa::avx2, Isa::avx512}) {
    if (name(value) != std::string(forced)) continue;
    TORCH_CHECK(value <= have, "USSFAST_FORCE_ISA=", forced, ": this CPU has only ", name(have));
    return value;
  }
  TORCH_CHECK(false, "USSFAST_FORCE_ISA=", forced, ": expected generic, avx2 or avx512");
}

std::string cpu_isa() { return name(isa()); }

}  // namespace

Isa isa() {
  static const Isa value = decide();
  return value;
}

TORCH_LIBRARY_FRAGMENT(ussfast, m) { m.def("_cpu_isa() -> str", &cpu_isa); }

}  // namespace ussfast
