// RMS normalisation of rows.
#pragma once

#include <algorithm>
#include <utility>

#include "vec.h"

namespace ussfast {
namespace {

// A fixed number of values, lowered by the compiler to whatever registers the target has.
template <typename T, int N>
struct Lanes {
  typedef T V __attribute__((vector_size(N * sizeof(T))));
};
template <typename T, int N>
using V = typename Lanes<T, N>::V;

template <typename T, int N>
USSFAST_INLINE V<T, N> read(const T* from) {
  V<T, N> value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// Adds halves onto each other until four lanes remain.
template <typename T, int N, size_t... I>
USSFAST_INLINE V<T, 4> fold(const V<T, N>& v, std::index_sequence<I...> half) {
  if constexpr (N == 4)
    return v;
  else
    return fold<T, N / 2>(__builtin_shufflevector(v, v, I...) + __builtin_shufflevector(v, v, (I + N / 2)...),
                          std::make_index_sequence<std::max(N / 4, 1)>());
}

template <int WIDTH, typename T>
USSFAST_INLINE V<T, 4> squares(const T* x) {
  constexpr int kWide = std::min<int>(WIDTH, 64 / sizeof(T));
  V<T, kWide> sum = {};
  for (int i = 0; i < WIDTH; i += kWide) {
    const auto value = read<T, kWide>(x + i);
    sum += value * value;
  }
  return fold<T, kWide>(sum, std::make_index_sequence<kWide / 2>());
}

// The sums of four vectors, in the lanes of one.
template <typename T>
USSFAST_INLINE V<T, 4> sums_of_four(const V<T, 4>& a, const V<T, 4>& b, const V<T, 4>& c, const V<T, 4>& d) {
  const auto ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const auto cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

// RMS of four groups: a 4x4 transposed addition leaves their four sums in the lanes of one register, so that one root and
// one division serve all four, without a way through memory.
template <int WIDTH, typename T>
USSFAST_INLINE V<T, 4> rms_of_four(const T* x) {
  const auto mean = sums_of_four<T>(squares<WIDTH>(x), squares<WIDTH>(x + WIDTH), squares<WIDTH>(x + 2 * WIDTH),
                            squares<WIDTH>(x + 3 * WIDTH)) / T(WIDTH);
  return V<T, 4>{std::sqrt(mean[0]), std::sqrt(mean[1]), std::sqrt(mean[2]), std::sqrt(mean[3])};
}

// One bin of known width, four groups at a time.
template <int WIDTH, typename T>
USSFAST_INLINE void row_by_four(const T* __restrict x, const T* __restrict w, T* __restrict y, int64_t groups, T eps) {
  for (int64_t g = 0; g < groups; g += 4, x += 4 * WIDTH, w += 4 * WIDTH, y += 4 * WIDTH) {
    const V<T, 4> scale = T(1) / (rms_of_four<WIDTH>(x) + eps);
    constexpr int kWide = std::min<int>(WIDTH, 64 / sizeof(T));
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k)
#pragma GCC unroll 4
      for (int i = k * WIDTH; i < (k + 1) * WIDTH; i += kWide) {
        const V<T, kWide> out = read<T, kWide>(x + i) * scale[k] * read<T, kWide>(w + i);
        std::memcpy(y + i, &out, sizeof(out));
      }
  }
}

template <typename T>
USSFAST_INLINE void row_of_any_width(const T* __restrict x, const T* __restrict w, T* __restrict y, int64_t groups,
                                     int64_t width, T eps) {
  constexpr int kWide = 64 / sizeof(T);
  for (int64_t g = 0; g < groups; ++g, x += width, w += width, y += width) {
    V<T, kWide> sums = {};
    int64_t i = 0;
    for (; i + kWide <= width; i += kWide) {
      const auto value = read<T, kWide>(x + i);
      sums += value * value;
    }
    const auto four = fold<T, kWide>(sums, std::make_index_sequence<kWide / 2>());
    T sum = (four[0] + four[2]) + (four[1] + four[3]);
    for (; i < width; ++i) sum += x[i] * x[i];
    const T scale = T(1) / (std::sqrt(sum / T(width)) + eps);
    for (i = 0; i < width; ++i) y[i] = x[i] * scale * w[i];
  }
}

template <typename T>
USSFAST_INLINE void normalize_row(const T* x, const T* w, T* y, int64_t groups, int64_t width, T eps) {
  if (groups % 4 == 0 && width == 8) return row_by_four<8>(x, w, y, groups, eps);
  if (groups % 4 == 0 && width == 16) return row_by_four<16>(x, w, y, groups, eps);
  if (groups % 4 == 0 && width == 32) return row_by_four<32>(x, w, y, groups, eps);
  row_of_any_width(x, w, y, groups, width, eps);
}

}  // namespace
}  // namespace ussfast
