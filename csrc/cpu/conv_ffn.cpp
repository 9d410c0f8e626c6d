#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "pack.h"
#include "shared.h"

namespace ussfast {
namespace {

using at::Tensor;

constexpr int64_t kTaps = 3;
constexpr int64_t kChunks = 16;  // of blocks, whose gradients of the weights are added in order

// The arguments as kernels read them, for as long as they run.
struct ConvFfnCall {
  Tensor x, past, norm, inner, inner_bias, outer, outer_bias;
  Precision precision;
  int64_t channels, hidden, lanes, panel, width, units, rows;
  std::vector<char> packed;
  ConvFfnArgs args = {};

  ConvFfnCall(const Tensor& x_, const std::optional<Tensor>& past_, const Tensor& norm_, const Tensor& inner_,
              const Tensor& inner_bias_, const Tensor& outer_, const Tensor& outer_bias_, int64_t axis, double eps,
              c10::string_view name)
      : precision(precision_of(name)) {
    TORCH_CHECK(precision != Precision::int8, "conv_ffn: precision must be float32 or bfloat16");
    TORCH_CHECK(x_.dim() == 4 && (axis == 1 || axis == 2) && outer_.dim() == 2 && inner_.dim() == 2 &&
                    outer_.size(0) == x_.size(3) && inner_.size(0) == 2 * outer_.size(1) &&
                    inner_.size(1) == kTaps * x_.size(3) && norm_.numel() == x_.size(3) &&
                    inner_bias_.numel() == inner_.size(0) && outer_bias_.numel() == x_.size(3),
                "conv_ffn: x ", x_.sizes(), ", axis ", axis, ", inner ", inner_.sizes(), ", outer ", outer_.sizes());
    TORCH_CHECK(!past_ || (axis == 1 && past_->sizes() ==
                           at::IntArrayRef({x_.size(0), kTaps - 1, x_.size(2), x_.size(3)})),
                "conv_ffn: past does not fit x ", x_.sizes(), ", axis ", axis);
    x = readable(x_), norm = dense(norm_), inner = dense(inner_), inner_bias = dense(inner_bias_);
    outer = dense(outer_), outer_bias = dense(outer_bias_);
    channels = x.size(3), hidden = outer.size(1), lanes = kernels().lanes, panel = 2 * lanes;
    width = round_up(channels, panel), units = 2 * round_up(hidden, panel);
    rows = x.size(0) * x.size(1) * x.size(2);
    args.x = x.const_data_ptr<float>();
    args.at = sequences(x, axis);
    if (past_) {
      past = readable(*past_);
      args.past = past.const_data_ptr<float>();
      args.past_outer = past.stride(0), args.past_inner = past.stride(2), args.past_step = past.stride(1);
      args.grad_past_outer = (kTaps - 1) * x.size(2) * channels;
    }
    args.norm = norm.const_data_ptr<float>();
    args.eps = float(eps);
    args.units = units;
    args.causal = axis == 1;
  }

  int64_t words(int64_t depth) const { return (depth + group_of(precision) - 1) / group_of(precision); }

  // Row of `inner` for a value or gate in its panel; -1 for padding.
  int64_t source(int64_t u) const {
    const int64_t unit = u / panel * lanes + u % lanes;
    return unit >= hidden ? -1 : u % panel < lanes ? unit : hidden + unit;
  }

  // Panels of a [depth, columns] matrix from get(k, column).
  template <class Get>
  void pack(int64_t depth, int64_t columns, char* to, const Get& get) const {
    for (int64_t c = 0; c < columns; c += panel)
      pack_panel(precision, depth, words(depth), panel, [&](int64_t k, int64_t n) { return get(k, c + n); },
                 to + c * words(depth) * 4, nullptr, nullptr);
  }

  void pack_forward() {
    Layout layout;
    const int64_t a = layout.add<float>(units * words(kTaps * channels)), b = layout.add<float>(width * words(units / 2));
    const int64_t c = layout.add<float>(units), d = layout.add<float>(width);
    packed.assign(layout.size(), 0);
    char* const base = packed.data();
    const float *w = inner.const_data_ptr<float>(), *v = outer.const_data_ptr<float>();
    pack(kTaps * channels, units, base + a, [&](int64_t k, int64_t u) {
      return source(u) < 0 ? 0.0f : w[source(u) * kTaps * channels + k];
    });
    pack(units / 2, width, base + b, [&](int64_t k, int64_t n) {
      return k < hidden && n < channels ? v[n * hidden + k] : 0.0f;
    });
    float* const biases = reinterpret_cast<float*>(base + c);
    for (int64_t u = 0; u < units; ++u)
      if (source(u) >= 0) biases[u] = inner_bias.const_data_ptr<float>()[source(u)];
    std::copy_n(outer_bias.const_data_ptr<float>(), channels, reinterpret_cast<float*>(base + d));
    args.inner = base + a, args.outer = base + b;
    args.inner_bias = biases, args.outer_bias = reinterpret_cast<const float*>(base + d);
  }

  void pack_backward() {
    Layout layout;
    const int64_t a = layout.add<float>(width * words(kTaps * units)), b = layout.add<float>(units / 2 * words(channels));
    packed.assign(layout.size(), 0);
    char* const base = packed.data();
    const float *w = inner.const_data_ptr<float>(), *v = outer.const_data_ptr<float>();
    pack(kTaps * units, width, base + a, [&](int64_t k, int64_t n) {  // the last tap comes first
      const int64_t row = source(k % units), tap = kTaps - 1 - k / units;
      return row < 0 || n >= channels ? 0.0f : w[(row * kTaps + tap) * channels + n];
    });
    pack(channels, units / 2, base + b, [&](int64_t k, int64_t n) { return n < hidden ? v[k * hidden + n] : 0.0f; });
    args.inner_back = base + a, args.outer_back = base + b;
  }

  Tensor run_forward(const Tensor* saved) {
    auto y = result(x.sizes());
    if (y.numel() == 0) return y;
    pack_forward();
    args.y = y.mutable_data_ptr<float>();
    args.saved = saved == nullptr ? nullptr : reinterpret_cast<char*>(saved->mutable_data_ptr<float>());
    run_blocks(kernels().conv_ffn[int(precision)], args);
    return y;
  }
};

Tensor conv_ffn(const Tensor& x, const std::optional<Tensor>& past, const Tensor& norm, const Tensor& inner,
                const Tensor& inner_bias, const Tensor& outer, const Tensor& outer_bias, int64_t axis, double eps,
                c10::string_view precision) {
  if (x.scalar_type() == at::kDouble)
    return reference("ussfast::conv_ffn", &conv_ffn, x, past, norm, inner, inner_bias, outer, outer_bias, axis, eps,
                     precision);
  ConvFfnCall call(x, past, norm, inner, inner_bias, outer, outer_bias, axis, eps, precision);
  return call.run_forward(nullptr).to(x.scalar_type());
}

// Also returns what the backward pass needs.
std::tuple<Tensor, Tensor> forward(const Tensor& x, const std::optional<Tensor>& past, const Tensor& norm,
                                   const Tensor& inner, const Tensor& inner_bias, const Tensor& outer,
                                   const Tensor& outer_bias, int64_t axis, double eps, c10::string_view precision) {
  ConvFfnCall call(x, past, norm, inner, inner_bias, outer, outer_bias, axis, eps, precision);
  const auto saved = result({call.rows, call.words(call.units)});
  const auto y = call.run_forward(&saved);
  return {y, saved};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Of x, past (empty without it), norm, inner, inner_bias, outer, outer_bias. frozen: without those of the weights, which
// are zero.
Gradients backward(const Tensor& grad, const Tensor& saved, const Tensor& x, const std::optional<Tensor>& past,
                   const Tensor& norm, const Tensor& inner, const Tensor& inner_bias, const Tensor& outer,
                   const Tensor& outer_bias, int64_t axis, double eps, c10::string_view precision, bool frozen) {
  ConvFfnCall call(x, past, norm, inner, inner_bias, outer, outer_bias, axis, eps, precision);
  const auto of_y = dense(grad);
  TORCH_CHECK(of_y.sizes() == x.sizes() && saved.is_contiguous() && saved.scalar_type() == at::kFloat &&
                  saved.numel() == call.rows * call.words(call.units),
              "conv_ffn: the gradient ", grad.sizes(), " or what was kept ", saved.sizes(), " does not fit x ", x.sizes());
  auto of_x = result(x.sizes());
  auto of_past = past ? at::empty(past->sizes(), of_y.options()) : at::empty({0}, of_y.options());
  auto of_norm = at::zeros({call.channels}, of_y.options()), of_inner = at::zeros(call.inner.sizes(), of_y.options());
  auto of_inner_bias = at::zeros({2 * call.hidden}, of_y.options());
  auto of_outer = at::zeros(call.outer.sizes(), of_y.options()), of_outer_bias = at::zeros({call.channels}, of_y.options());
  Gradients all = {of_x, of_past, of_norm, of_inner, of_inner_bias, of_outer, of_outer_bias};
  if (call.rows == 0) {
    if (past) of_past.zero_();
    return all;
  }
  call.pack_backward();
  const ConvFfnSums place(call.channels, call.units, call.panel);
  auto& args = call.args;
  args.chunks = std::min(kChunks, args.at.count());
  auto sums = at::empty({args.chunks, place.size}, of_y.options());
  args.sums = sums.mutable_data_ptr<float>();
  args.grad = of_y.const_data_ptr<float>();
  args.saved = const_cast<char*>(reinterpret_cast<const char*>(saved.const_data_ptr<float>()));
  args.grad_x = of_x.mutable_data_ptr<float>();
  args.grad_past = past ? of_past.mutable_data_ptr<float>() : nullptr;
  args.frozen = frozen;
  run_blocks(kernels().conv_ffn_backward[int(call.precision)], args);
  if (frozen) return all;

  float* const sum = args.sums;
  at::parallel_for(0, place.size, 4096, [&](int64_t first, int64_t last) {
    for (int64_t chunk = 1; chunk < args.chunks; ++chunk)
      for (int64_t i = first; i < last; ++i) sum[i] += sum[chunk * place.size + i];
  });
  for (int64_t u = 0; u < call.units; ++u) {
    const int64_t row = call.source(u);
    if (row < 0) continue;
    of_inner_bias.mutable_data_ptr<float>()[row] = sum[place.inner_bias + u];
    for (int64_t tap = 0; tap < kTaps; ++tap)
      std::copy_n(sum + (u * kTaps + tap) * call.width, call.channels,
                  of_inner.mutable_data_ptr<float>() + (row * kTaps + tap) * call.channels);
  }
  for (int64_t c = 0; c < call.channels; ++c)
    std::copy_n(sum + place.outer + c * (call.units / 2), call.hidden, of_outer.mutable_data_ptr<float>() + c * call.hidden);
  std::copy_n(sum + place.outer_bias, call.channels, of_outer_bias.mutable_data_ptr<float>());
  std::copy_n(sum + place.norm, call.channels, of_norm.mutable_data_ptr<float>());
  return all;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def(
      "_conv_ffn_forward(Tensor x, Tensor? past, Tensor norm, Tensor inner, Tensor inner_bias, Tensor outer, "
      "Tensor outer_bias, int axis, float eps, str precision) -> (Tensor, Tensor)",
      &forward);
  m.def(
      "_conv_ffn_backward(Tensor grad, Tensor saved, Tensor x, Tensor? past, Tensor norm, Tensor inner, "
      "Tensor inner_bias, Tensor outer, Tensor outer_bias, int axis, float eps, str precision, bool frozen) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      &backward);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("conv_ffn", &conv_ffn); }

}  // namespace ussfast
