// Around the inverse STFT: complex products before it, overlap-add and normalisation behind it; the same backwards.
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

// out = grad * by * window.
inline void weigh(const float* __restrict grad, const float* __restrict by, const float* __restrict window,
                  float* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = grad[i] * by[i] * window[i];
}

// out = scale * a * conj(b), `count` complex numbers as pairs of floats; out may be a. Null b: 1.
inline void multiply_conjugate(const float* a, const float* b, float scale, float* out, int64_t count) {
  constexpr std::make_index_sequence<kLanes> lanes;
  F turned = splat(scale);  // of b: conjugated
  for (int i = 1; i < kLanes; i += 2) turned[i] = -scale;
  for (int64_t i = 0; i < 2 * count; i += kLanes) {
    const int64_t n = 2 * count - i;
    const F value = load_some(a + i, n);
    store_some(out + i, b == nullptr ? value * scale : complex_product(value, load_some(b + i, n) * turned, lanes), n);
  }
}

// Subtracts from each of `parts` runs of `count` values, `step` apart, the mean of all.
inline void subtract_mean(float* x, int64_t parts, int64_t step, int64_t count) {
  const float by = 1.0f / float(parts);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t n = count - i;
    F mean = {};
    for (int64_t p = 0; p < parts; ++p) mean += load_some(x + p * step + i, n);
    mean *= by;
    for (int64_t p = 0; p < parts; ++p) store_some(x + p * step + i, load_some(x + p * step + i, n) - mean, n);
  }
}

}  // namespace
}  // namespace ussfast
