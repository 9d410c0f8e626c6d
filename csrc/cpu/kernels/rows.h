// What kernels that train share: rows in the precision of the products, RMSNorm of a row and its gradients.
#pragma once

#include <type_traits>

#include "gemm.h"
#include "norm.h"

namespace ussfast {
namespace {

USSFAST_INLINE void put(float* to, F value) { store(to, value); }
USSFAST_INLINE void put(uint16_t* to, F value) {
#if defined(USSFAST_BF16)
  store(to, (H)_mm512_cvtneps_pbh((__m512)value));
#else
  const U bits = (U)value;
  store(to, low_halves((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16));  // ties to even
#endif
}
USSFAST_INLINE F get(const float* from) { return load(from); }
USSFAST_INLINE F get(const uint16_t* from) { return (F)(__builtin_convertvector(load<H>(from), U) << 16); }
template <class Element>
USSFAST_INLINE void put_some(Element* to, F value, int64_t n) {
  if (n >= kLanes) return put(to, value);
  Element some[kLanes];
  put(some, value);
  std::memcpy(to, some, n * sizeof(Element));
}

USSFAST_INLINE float sum_of_lanes(F v) {
  const auto four = fold<float, kLanes>(v, std::make_index_sequence<kLanes / 2>());
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// Rows 2k and 2k + 1 of halves as pairs: what a product over rows reads.
USSFAST_INLINE void pair_rows(const uint16_t* from, int64_t pairs, int64_t width, uint32_t* to) {
  for (int64_t k = 0; k < pairs; ++k, from += 2 * width, to += width) {
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) {
      const U low = __builtin_convertvector(load<H>(from + c), U);
      const U high = __builtin_convertvector(load<H>(from + width + c), U);
      store(to + c, low | high << 16);
    }
    for (; c < width; ++c) to[c] = from[c] | uint32_t(from[width + c]) << 16;
  }
}

// 1 / RMS of a row; eps is inside the root.
USSFAST_INLINE float scale_of_row(const float* x, int64_t channels, float eps) {
  F sum = {};
  for (int64_t c = 0; c < channels; c += kLanes) {
    const F value = load_some(x + c, channels - c);
    sum += value * value;
  }
  return 1.0f / std::sqrt(sum_of_lanes(sum) / float(channels) + eps);
}

// With grad, the gradient of a normalised and weighted row, that of the row itself is grad * norm * scale - x * back:
// returns back. Adds the gradients of the weights to of_norm.
USSFAST_INLINE float norm_dot(const float* x, const float* grad, const float* norm, int64_t channels, float scale,
                              float* of_norm) {
  F dot = {};
  for (int64_t c = 0; c < channels; c += kLanes) {
    const int64_t n = channels - c;
    const F value = load_some(x + c, n), by = load(grad + c);
    store(of_norm + c, load(of_norm + c) + by * value * scale);
    dot += by * load_some(norm + c, n) * value;
  }
  return sum_of_lanes(dot) / float(channels) * scale * scale * scale;
}

}  // namespace
}  // namespace ussfast
