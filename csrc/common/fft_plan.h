// How a real transform of some length is done: which passes, and the table of roots of one. Made on the host.
#pragma once

#include <cmath>
#include <cstdint>

#include "team.h"

namespace ussfast {

constexpr int kLongestFft = 4096;

struct FftPass {
  int radix;
  int stride;      // product of the radices before
  uint32_t magic;  // k / stride == k * magic >> kMagicBits
  int table;       // where the roots of this pass begin
};

// For k and stride up to 1024, which is half of the complex length: a pass has no more butterflies.
constexpr int kMagicBits = 20;

// A real transform of n = 2 * half numbers is a complex one of `half`, and `half / 2 + 1` pairs of bins around it.
struct FftPlan {
  int half;
  int passes;
  int ends;        // where the roots for the pairs of bins begin, exp(-2 pi i k / n)
  int table_size;  // in complex numbers
  FftPass pass[8];  // 2048 has no more factors than 3^6 * 2
};

inline bool fft_fits(int64_t n) {
  if (n < 2 || n % 2 || n > kLongestFft) return false;
  for (const int factor : {2, 3, 5})
    while (n % factor == 0) n /= factor;
  return n == 1;
}

// Of a length that fits. Radix 8 where possible: each pass is a way through shared memory and back.
inline FftPlan fft_plan(int n) {
  FftPlan plan = {};
  plan.half = n / 2;
  int rest = n / 2, stride = 1;
  const auto add = [&](int radix) {
    plan.pass[plan.passes++] = {radix, stride, (1u << kMagicBits) / stride + 1, plan.table_size};
    if (stride > 1) plan.table_size += stride;  // the first pass has no roots
    stride *= radix;
    rest /= radix;
  };
  // 16 is 4 * 4 and not 8 * 2.
  while (rest % 8 == 0 && (rest % 16 != 0 || rest % 32 == 0)) add(8);
  while (rest % 4 == 0) add(4);
  if (rest % 2 == 0) add(2);
  while (rest % 5 == 0) add(5);
  while (rest % 3 == 0) add(3);
  plan.ends = plan.table_size;
  plan.table_size += plan.half / 2 + 1;
  return plan;
}

// table: [plan.table_size]. In double: the error of a transform should be that of its own roundings.
inline void fft_table(const FftPlan& plan, Complex* table) {
  const auto root = [](int k, int n) {
    const double angle = -2 * 3.14159265358979323846 * k / n;
    return Complex{float(std::cos(angle)), float(std::sin(angle))};
  };
  for (int p = 1; p < plan.passes; ++p)
    for (int k = 0; k < plan.pass[p].stride; ++k)
      table[plan.pass[p].table + k] = root(k, plan.pass[p].stride * plan.pass[p].radix);
  for (int k = 0; k <= plan.half / 2; ++k) table[plan.ends + k] = root(k, 2 * plan.half);
}

}  // namespace ussfast
