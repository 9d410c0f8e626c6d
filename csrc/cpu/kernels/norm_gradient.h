// The gradient of RMS normalisation, see norm.h.
//
// With a group's scale s = 1 / (rms + eps), the gradient of x is grad * w * s - x * sum(grad * w * x) / width * s^2 / rms.
// Where the whole group is zero, the second term is too: the derivative of x / (|x| + eps) at 0 is 1 / eps.
#pragma once

#include "norm.h"

namespace ussfast {
namespace {

template <int WIDTH, typename T>
USSFAST_INLINE V<T, 4> products(const T* x, const T* w, const T* grad) {
  constexpr int kWide = std::min<int>(WIDTH, 64 / sizeof(T));
  V<T, kWide> sum = {};
  for (int i = 0; i < WIDTH; i += kWide) sum += read<T, kWide>(x + i) * read<T, kWide>(w + i) * read<T, kWide>(grad + i);
  return fold<T, kWide>(sum, std::make_index_sequence<kWide / 2>());
}

template <int WIDTH, bool ADD, typename T>
USSFAST_INLINE void gradient_by_four(const T* __restrict x, const T* __restrict w, const T* grad, const T* add,
                                     T* __restrict out, int64_t groups, T eps) {
  for (int64_t g = 0; g < groups; g += 4) {
    const auto rms = rms_of_four<WIDTH>(x);
    const V<T, 4> scale = T(1) / (rms + eps);
    const V<T, 4> dot = sums_of_four<T>(products<WIDTH>(x, w, grad), products<WIDTH>(x + WIDTH, w + WIDTH, grad + WIDTH),
                                products<WIDTH>(x + 2 * WIDTH, w + 2 * WIDTH, grad + 2 * WIDTH),
                                products<WIDTH>(x + 3 * WIDTH, w + 3 * WIDTH, grad + 3 * WIDTH));
    const V<T, 4> back = dot * scale * scale / (T(WIDTH) * (rms > T(0) ? rms : V<T, 4>{} + T(1)));
    constexpr int kWide = std::min<int>(WIDTH, 64 / sizeof(T));
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k)
#pragma GCC unroll 4
      for (int i = k * WIDTH; i < (k + 1) * WIDTH; i += kWide) {
        auto value = read<T, kWide>(grad + i) * scale[k] * read<T, kWide>(w + i) - read<T, kWide>(x + i) * back[k];
        if constexpr (ADD) value += read<T, kWide>(add + i);
        std::memcpy(out + i, &value, sizeof(value));
      }
    x += 4 * WIDTH, w += 4 * WIDTH, grad += 4 * WIDTH, out += 4 * WIDTH;
    if constexpr (ADD) add += 4 * WIDTH;
  }
}

template <bool ADD, typename T>
USSFAST_INLINE void gradient_of_any_width(const T* __restrict x, const T* __restrict w, const T* grad, const T* add,
                                          T* __restrict out, int64_t groups, int64_t width, T eps) {
  constexpr int kWide = 64 / sizeof(T);
  constexpr auto half = std::make_index_sequence<kWide / 2>();
  for (int64_t g = 0; g < groups; ++g) {
    V<T, kWide> square_sums = {}, dots = {};
    int64_t i = 0;
    for (; i + kWide <= width; i += kWide) {
      const auto value = read<T, kWide>(x + i);
      square_sums += value * value;
      dots += value * read<T, kWide>(w + i) * read<T, kWide>(grad + i);
    }
    const auto four = fold<T, kWide>(square_sums, half), other = fold<T, kWide>(dots, half);
    T square = (four[0] + four[2]) + (four[1] + four[3]), dot = (other[0] + other[2]) + (other[1] + other[3]);
    for (; i < width; ++i) {
      square += x[i] * x[i];
      dot += x[i] * w[i] * grad[i];
    }
    const T rms = std::sqrt(square / T(width)), scale = T(1) / (rms + eps);
    const T back = dot * scale * scale / (T(width) * (rms > T(0) ? rms : T(1)));
    for (i = 0; i < width; ++i) out[i] = grad[i] * scale * w[i] - x[i] * back + (ADD ? add[i] : T(0));
    x += width, w += width, grad += width, out += width;
    if constexpr (ADD) add += width;
  }
}

template <bool ADD, typename T>
USSFAST_INLINE void gradient_of_row(const T* x, const T* w, const T* grad, const T* add, T* out, int64_t groups,
                                    int64_t width, T eps) {
  if (groups % 4 == 0 && width == 8) return gradient_by_four<8, ADD>(x, w, grad, add, out, groups, eps);
  if (groups % 4 == 0 && width == 16) return gradient_by_four<16, ADD>(x, w, grad, add, out, groups, eps);
  if (groups % 4 == 0 && width == 32) return gradient_by_four<32, ADD>(x, w, grad, add, out, groups, eps);
  gradient_of_any_width<ADD>(x, w, grad, add, out, groups, width, eps);
}

// grad: of the normalised and weighted row. add: what else flows to the row; may be null.
template <typename T>
USSFAST_INLINE void normalize_row_gradient(const T* x, const T* w, const T* grad, const T* add, T* out, int64_t groups,
                                           int64_t width, T eps) {
  if (add == nullptr) gradient_of_row<false>(x, w, grad, add, out, groups, width, eps);
  else gradient_of_row<true>(x, w, grad, add, out, groups, width, eps);
}

}  // namespace
}  // namespace ussfast
