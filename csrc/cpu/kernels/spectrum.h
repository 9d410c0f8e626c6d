// Around the inverse STFT: complex products before it, overlap-add and normalisation behind it.
#pragma once

#include <utility>

#include "vec.h"

namespace ussfast {
namespace {

template <size_t... L>
USSFAST_INLINE F complex_product(F a, F b, std::index_sequence<L...>) {
  const F straight = a * __builtin_shufflevector(b, b, (L & ~size_t(1))...);
  const F crossed = __builtin_shufflevector(a, a, (L ^ 1)...) * __builtin_shufflevector(b, b, (L | 1)...);
  return __builtin_shufflevector(straight - crossed, straight + crossed, (L + L % 2 * kLanes)...);
}

// out = a * b, `count` complex numbers as pairs of floats.
inline void multiply_pairs(const float* a, const float* b, float* out, int64_t count) {
  constexpr std::make_index_sequence<kLanes> lanes;
  int64_t i = 0;
  for (; i + kLanes <= 2 * count; i += kLanes) store(out + i, complex_product(load(a + i), load(b + i), lanes));
  const int64_t rest = 2 * count - i;
  store_some(out + i, complex_product(load_some(a + i, rest), load_some(b + i, rest), lanes), rest);
}

// out += frame * window, weight += window^2.
inline void overlap_add(const float* __restrict frame, const float* __restrict window, float* __restrict out,
                        float* __restrict weight, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] += frame[i] * window[i];
    weight[i] += window[i] * window[i];
  }
}

// out /= weight; zero where weight is less than `least`.
inline void divide_by_weight(const float* __restrict weight, float* __restrict out, int64_t count, float least) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const F by = load(weight + i);
    store(out + i, by >= least ? load(out + i) / by : F{});
  }
  for (; i < count; ++i) out[i] = weight[i] >= least ? out[i] / weight[i] : 0.0f;
}

}  // namespace
}  // namespace ussfast
