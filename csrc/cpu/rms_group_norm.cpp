#include <type_traits>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/SmallVector.h>
#include <torch/library.h>

#include "shared.h"

namespace ussfast {
namespace {

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

void check(const at::Tensor& x, const at::Tensor& weight, int64_t groups) {
  TORCH_CHECK(x.dim() > 0 && weight.sizes() == x.sizes().slice(x.dim() - 1) && groups > 0 && x.size(-1) % groups == 0,
              "rms_group_norm: x ", x.sizes(), ", weight ", weight.sizes(), ", groups ", groups);
}

at::Tensor rms_group_norm(const at::Tensor& x, const at::Tensor& weight, int64_t groups, double eps) {
  check(x, weight, groups);
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
    const auto row = [] {
      if constexpr (std::is_same_v<scalar_t, double>) return kernels().rms_row_f64;
      else return kernels().rms_row_f32;
    }();
    at::parallel_for(0, y.numel() / channels, 1 + 16384 / channels, [&](int64_t r, int64_t end) {
      for (Rows rows(input, r); r < end; ++r, rows.next())
        row(in + rows.offset(), by, out + r * channels, groups, channels / groups, scalar_t(eps));
    });
  });
  return y.to(x.scalar_type());
}

// The gradient of x alone, from that of the result; float32.
at::Tensor gradient(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight, int64_t groups, double eps) {
  check(x, weight, groups);
  TORCH_CHECK(grad.sizes() == x.sizes(), "_rms_group_norm_gradient: the gradient ", grad.sizes(), " does not fit x ",
              x.sizes());
  const auto input = readable(x), of_y = dense(grad), factors = dense(weight);
  auto of_x = result(x.sizes());
  const int64_t channels = x.size(-1);
  if (of_x.numel() == 0) return of_x;
  const float *in = input.const_data_ptr<float>(), *by = factors.const_data_ptr<float>();
  const float* from = of_y.const_data_ptr<float>();
  float* out = of_x.mutable_data_ptr<float>();
  at::parallel_for(0, of_x.numel() / channels, 1 + 16384 / channels, [&](int64_t r, int64_t end) {
    for (Rows rows(input, r); r < end; ++r, rows.next())
      kernels().rms_row_gradient(in + rows.offset(), by, from + r * channels, nullptr, out + r * channels, groups,
                                 channels / groups, float(eps));
  });
  return of_x;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def("_rms_group_norm_gradient(Tensor grad, Tensor x, Tensor weight, int groups, float eps) -> Tensor", &gradient);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("rms_group_norm", &rms_group_norm); }

}  // namespace ussfast
