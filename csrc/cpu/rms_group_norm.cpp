#include "isa.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/SmallVector.h>
#include <torch/library.h>

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
USSFAST_INLINE V<T, N> load(const T* from) {
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
  constexpr int kLanes = std::min<int>(WIDTH, 64 / sizeof(T));
  V<T, kLanes> sum = {};
  for (int i = 0; i < WIDTH; i += kLanes) {
    const auto value = load<T, kLanes>(x + i);
    sum += value * value;
  }
  return fold<T, kLanes>(sum, std::make_index_sequence<kLanes / 2>());
}

// One bin of known width, four groups at a time: a 4x4 transposed addition leaves their four sums in the lanes of
// one register, so that one root and one division serve all four, without a way through memory.
template <int WIDTH, typename T>
USSFAST_INLINE void row_by_four(const T* __restrict x, const T* __restrict w, T* __restrict y, int64_t groups, T eps) {
  for (int64_t g = 0; g < groups; g += 4, x += 4 * WIDTH, w += 4 * WIDTH, y += 4 * WIDTH) {
    const auto a = squares<WIDTH>(x), b = squares<WIDTH>(x + WIDTH);
    const auto c = squares<WIDTH>(x + 2 * WIDTH), d = squares<WIDTH>(x + 3 * WIDTH);
    const auto ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const auto cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    auto rms = __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    rms /= T(WIDTH);
    rms = V<T, 4>{std::sqrt(rms[0]), std::sqrt(rms[1]), std::sqrt(rms[2]), std::sqrt(rms[3])};
    const V<T, 4> scale = T(1) / (rms + eps);
    constexpr int kLanes = std::min<int>(WIDTH, 64 / sizeof(T));
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k)
#pragma GCC unroll 4
      for (int i = k * WIDTH; i < (k + 1) * WIDTH; i += kLanes) {
        const V<T, kLanes> out = load<T, kLanes>(x + i) * scale[k] * load<T, kLanes>(w + i);
        std::memcpy(y + i, &out, sizeof(out));
      }
  }
}

template <typename T>
USSFAST_INLINE void row_of_any_width(const T* __restrict x, const T* __restrict w, T* __restrict y, int64_t groups,
                                     int64_t width, T eps) {
  constexpr int kLanes = 64 / sizeof(T);
  for (int64_t g = 0; g < groups; ++g, x += width, w += width, y += width) {
    V<T, kLanes> sums = {};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      const auto value = load<T, kLanes>(x + i);
      sums += value * value;
    }
    const auto four = fold<T, kLanes>(sums, std::make_index_sequence<kLanes / 2>());
    T sum = (four[0] + four[2]) + (four[1] + four[3]);
    for (; i < width; ++i) sum += x[i] * x[i];
    const T scale = T(1) / (std::sqrt(sum / T(width)) + eps);
    for (i = 0; i < width; ++i) y[i] = x[i] * scale * w[i];
  }
}

template <typename T>
USSFAST_INLINE void any_row(const T* x, const T* w, T* y, int64_t groups, int64_t width, T eps) {
  if (groups % 4 == 0 && width == 8) return row_by_four<8>(x, w, y, groups, eps);
  if (groups % 4 == 0 && width == 16) return row_by_four<16>(x, w, y, groups, eps);
  if (groups % 4 == 0 && width == 32) return row_by_four<32>(x, w, y, groups, eps);
  row_of_any_width(x, w, y, groups, width, eps);
}

template <typename T>
void row_generic(const T* x, const T* w, T* y, int64_t groups, int64_t width, T eps) {
  any_row(x, w, y, groups, width, eps);
}
#ifdef USSFAST_X86
template <typename T>
USSFAST_AVX2 void row_avx2(const T* x, const T* w, T* y, int64_t groups, int64_t width, T eps) {
  any_row(x, w, y, groups, width, eps);
}
template <typename T>
USSFAST_AVX512 void row_avx512(const T* x, const T* w, T* y, int64_t groups, int64_t width, T eps) {
  any_row(x, w, y, groups, width, eps);
}
#else
template <typename T>
constexpr auto row_avx2 = row_generic<T>;
template <typename T>
constexpr auto row_avx512 = row_generic<T>;
#endif

// Walks the leading dimensions of a tensor of any strides, last one fastest.
class Rows {
 public:
  Rows(const at::Tensor& x, int64_t start) : sizes_(x.sizes()), strides_(x.strides()), index_(x.dim() - 1) {
    for (int64_t d = x.dim() - 2; d >= 0; start /= sizes_[d--]) {
      index_[d] = start % sizes_[d];
      offset_ += index_[d] * strides_[d];
    }
  }
  int64_t offset() const { return offset_; }
  void next() {
    for (int64_t d = int64_t(index_.size()) - 1; d >= 0; --d) {
      offset_ += strides_[d];
      if (++index_[d] < sizes_[d]) return;
      offset_ -= sizes_[d] * strides_[d];
      index_[d] = 0;
    }
  }

 private:
  at::IntArrayRef sizes_, strides_;
  c10::SmallVector<int64_t, 6> index_;
  int64_t offset_ = 0;
};

at::Tensor rms_group_norm(const at::Tensor& x, const at::Tensor& weight, int64_t groups, double eps) {
  const auto wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  // Transposed activations are read in place; only scattered channels are gathered first.
  auto input = x.to(wide);
  if (input.stride(-1) != 1) input = input.contiguous();
  const auto factors = weight.to(wide).contiguous();
  auto y = at::empty(input.sizes(), input.options());
  const int64_t channels = x.size(-1);
  if (y.numel() == 0) return y.to(x.scalar_type());
  AT_DISPATCH_FLOATING_TYPES(wide, "rms_group_norm", [&] {
    const auto* in = input.const_data_ptr<scalar_t>();
    const auto* by = factors.const_data_ptr<scalar_t>();
    auto* out = y.mutable_data_ptr<scalar_t>();
    const auto row = pick(&row_generic<scalar_t>, &row_avx2<scalar_t>, &row_avx512<scalar_t>);
    at::parallel_for(0, y.numel() / channels, 1 + 16384 / channels, [&](int64_t r, int64_t end) {
      for (Rows rows(input, r); r < end; ++r, rows.next())
        row(in + rows.offset(), by, out + r * channels, groups, channels / groups, scalar_t(eps));
    });
  });
  return y.to(x.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("rms_group_norm", &rms_group_norm); }

}  // namespace ussfast
