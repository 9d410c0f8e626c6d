// What the ops around kernels/residual.h share: arguments as kernels read them, packed weights, gradients of weights.
#pragma once

#include <array>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "pack.h"
#include "shared.h"

namespace ussfast {

// For as long as kernels run. Args: a struct that begins with ResidualArgs.
template <class Args>
struct ResidualCall {
  at::Tensor x, norm, inner, inner_bias, outer;
  Precision precision;
  int64_t channels, panel, width;
  std::vector<char> packed;
  Args args = {};

  ResidualCall(const char* op, const at::Tensor& x_, const at::Tensor& norm_, const at::Tensor& inner_,
               const at::Tensor* inner_bias_, const at::Tensor& outer_, int64_t heads, double eps, c10::string_view name)
      : precision(precision_of(name)) {
    TORCH_CHECK(precision != Precision::int8, op, ": precision must be float32 or bfloat16");
    TORCH_CHECK(x_.dim() == 4 && inner_.dim() == 2 && outer_.dim() == 2 && norm_.numel() == x_.size(3) &&
                    inner_.size(0) == 3 * x_.size(3) && inner_.size(1) == x_.size(3) && outer_.size(0) == x_.size(3) &&
                    outer_.size(1) == x_.size(3) && heads > 0 && x_.size(3) % heads == 0 &&
                    (inner_bias_ == nullptr || inner_bias_->numel() == 3 * x_.size(3)),
                op, ": x ", x_.sizes(), ", heads ", heads, ", inner ", inner_.sizes(), ", outer ", outer_.sizes());
    x = readable(x_), norm = dense(norm_), inner = dense(inner_), outer = dense(outer_);
    if (inner_bias_ != nullptr) inner_bias = dense(*inner_bias_);
    channels = x.size(3), panel = 2 * kernels().lanes, width = round_up(channels, panel);
    args.x = x.const_data_ptr<float>();
    args.batch = x.size(0), args.frames = x.size(1), args.bands = x.size(2), args.channels = channels;
    args.x_item = x.stride(0), args.x_frame = x.stride(1), args.x_band = x.stride(2);
    args.heads = heads, args.head_width = channels / heads, args.mixed = heads * round_up(args.head_width, panel);
    args.norm = norm.const_data_ptr<float>();
    args.eps = float(eps);
  }

  bool empty() const { return x.numel() == 0; }

  // The channel of a column of `mixed`; -1 for padding.
  int64_t channel(int64_t m) const {
    const int64_t padded = args.mixed / args.heads, c = m % padded;
    return c < args.head_width ? m / padded * args.head_width + c : -1;
  }
  // The row of `inner` of a unit; -1 for padding.
  int64_t source(int64_t u) const {
    const int64_t c = channel(u % args.mixed);
    return c < 0 ? -1 : u / args.mixed * channels + c;
  }

  void pack(bool backward) {
    const int64_t mixed = args.mixed, units = 3 * mixed, group = group_of(precision);
    const auto words = [&](int64_t depth) { return (depth + group - 1) / group; };
    Layout layout;
    const int64_t a = layout.add<float>(units * words(channels)), d = layout.add<float>(units);
    const int64_t b = layout.add<float>(width * words(backward ? units : mixed));
    const int64_t c = layout.add<float>(backward ? mixed * words(channels) : 0);
    packed.assign(layout.size(), 0);
    char* const base = packed.data();
    const auto panels = [&](int64_t depth, int64_t columns, char* to, const auto& get) {
      for (int64_t n = 0; n < columns; n += panel)
        pack_panel(precision, depth, words(depth), panel, [&](int64_t k, int64_t i) { return get(k, n + i); },
                   to + n * words(depth) * 4, nullptr, nullptr);
    };
    const float *w = inner.const_data_ptr<float>(), *v = outer.const_data_ptr<float>();
    panels(channels, units, base + a, [&](int64_t k, int64_t u) {
      return source(u) < 0 ? 0.0f : w[source(u) * channels + k];
    });
    args.inner = base + a;
    if (inner_bias.defined()) {
      float* const biases = reinterpret_cast<float*>(base + d);
      for (int64_t u = 0; u < units; ++u)
        if (source(u) >= 0) biases[u] = inner_bias.template const_data_ptr<float>()[source(u)];
      args.inner_bias = biases;
    }
    if (!backward) {
      panels(mixed, width, base + b, [&](int64_t m, int64_t n) {
        return channel(m) < 0 || n >= channels ? 0.0f : v[n * channels + channel(m)];
      });
      args.outer = base + b;
      return;
    }
    panels(units, width, base + b, [&](int64_t u, int64_t n) {
      return source(u) < 0 || n >= channels ? 0.0f : w[source(u) * channels + n];
    });
    panels(channels, mixed, base + c, [&](int64_t k, int64_t m) {
      return channel(m) < 0 ? 0.0f : v[k * channels + channel(m)];
    });
    args.inner_back = base + b, args.outer_back = base + c;
  }

  // Runs the backward pass in chunks of its blocks. Gradients of x, norm, inner, its bias (empty without one) and outer.
  std::array<at::Tensor, 5> run_backward(const char* op, const Blocks<Args>& kernel, int64_t blocks,
                                         const at::Tensor& grad) {
    constexpr int64_t kChunks = 16;  // do not depend on the number of threads, and are added in their order
    TORCH_CHECK(grad.sizes() == x.sizes(), op, ": the gradient ", grad.sizes(), " does not fit x ", x.sizes());
    const auto of_y = dense(grad);
    const auto options = of_y.options();
    std::array<at::Tensor, 5> all = {result(x.sizes()), at::zeros({channels}, options), at::zeros(inner.sizes(), options),
                                     at::zeros({inner_bias.defined() ? 3 * channels : 0}, options),
                                     at::zeros(outer.sizes(), options)};
    if (empty()) return all;
    pack(true);
    const ResidualSums place(channels, args.mixed, panel);
    args.chunks = std::min(kChunks, blocks);
    auto sums = at::empty({args.chunks, place.size}, options);
    args.sums = sums.template mutable_data_ptr<float>();
    args.grad = of_y.template const_data_ptr<float>();
    args.grad_x = all[0].template mutable_data_ptr<float>();
    run_blocks(kernel, args);
    float* const sum = args.sums;
    at::parallel_for(0, place.size, 4096, [&](int64_t first, int64_t last) {
      for (int64_t chunk = 1; chunk < args.chunks; ++chunk)
        for (int64_t i = first; i < last; ++i) sum[i] += sum[chunk * place.size + i];
    });
    float *of_inner = all[2].template mutable_data_ptr<float>(), *of_outer = all[4].template mutable_data_ptr<float>();
    for (int64_t u = 0; u < 3 * args.mixed; ++u) {
      if (source(u) < 0) continue;
      std::copy_n(sum + u * width, channels, of_inner + source(u) * channels);
      if (inner_bias.defined()) all[3].template mutable_data_ptr<float>()[source(u)] = sum[place.inner_bias + u];
    }
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t m = 0; m < args.mixed; ++m)
        if (channel(m) >= 0) of_outer[c * channels + channel(m)] = sum[place.outer + c * args.mixed + m];
    std::copy_n(sum + place.norm, channels, all[1].template mutable_data_ptr<float>());
    return all;
  }
};

}  // namespace ussfast
