#include <tuple>
#include <vector>

#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "pack.h"
#include "packed.h"
#include "shared.h"

namespace ussfast {
namespace {

using at::Tensor;

constexpr double kLog2e = 1.44269504088896341;

// bfloat16 is for products whose weights are many; here it is float32.
bool is_int8(c10::string_view precision) { return precision_of(precision) == Precision::int8; }

Tensor pack(const Tensor& norm_weight, const Tensor& qkv_weight, const Tensor& out_weight, int64_t heads,
            int64_t groups, c10::string_view precision) {
  const int64_t channels = out_weight.size(0), width = out_weight.size(1);
  TORCH_CHECK(qkv_weight.sizes() == at::IntArrayRef({3 * width, channels}) && heads > 0 && width % heads == 0 &&
                  norm_weight.numel() == channels && groups > 0 && channels % groups == 0,
              "locoformer_attention: weights do not fit together: qkv ", qkv_weight.sizes(), ", out ",
              out_weight.sizes(), ", heads ", heads);
  const bool int8 = is_int8(precision);
  const PackedAttention p(channels, width, int8);
  auto blob = at::zeros({p.layout.size()}, qkv_weight.options().dtype(at::kByte));
  char* base = reinterpret_cast<char*>(blob.mutable_data_ptr<uint8_t>());
  const auto in = dense(qkv_weight), out = dense(out_weight), norm = dense(norm_weight);
  const float *w = in.const_data_ptr<float>(), *o = out.const_data_ptr<float>(), *g = norm.const_data_ptr<float>();
  // Scores come out scaled by 1/sqrt(head width), in units of log2.
  const float query = kLog2e / std::sqrt(double(width / heads));
  // Unit of the quantised activations: a normalised value is at most the root of its group's width.
  const float unit = std::sqrt(float(channels / groups)) / 127.0f;
  float* scales = reinterpret_cast<float*>(base + p.qkv_scale);
  for (int64_t r = 0; r < 3 * width; ++r) {
    const float factor = r < width ? query : 1.0f;
    // In int8 the norm's weight is part of the projection, so that its input has a known range.
    const auto get = [&](int64_t k, int64_t) { return w[r * channels + k] * (int8 ? g[k] : factor); };
    pack_panel(int8 ? Precision::int8 : Precision::float32, channels, p.row_bytes / 4, 1, get,
               base + p.qkv + r * p.row_bytes, scales + r, reinterpret_cast<int32_t*>(base + p.qkv_zero) + r);
    scales[r] *= unit * factor;
  }
  for (int64_t c = 0; c < p.out_width; c += p.panel) {
    const auto get = [&](int64_t k, int64_t n) { return c + n < channels ? o[(c + n) * width + k] : 0.0f; };
    pack_panel(Precision::float32, width, width, p.panel, get, base + p.out + c * width * 4, nullptr, nullptr);
  }
  return blob;
}

// The arguments as kernels read them, for as long as they run.
struct AttentionCall {
  Tensor x, gamma, blob, cosine, sine, back;
  int64_t channels, width;
  PackedAttention p;
  AttentionGradArgs args = {};

  AttentionCall(const Tensor& x_, const Tensor& norm_weight, const Tensor& qkv_weight, const Tensor& out_weight,
                const std::optional<Tensor>& rope, const std::optional<Tensor>& packed, int64_t axis, int64_t groups,
                double eps, int64_t heads, c10::string_view precision)
      : channels(out_weight.size(0)), width(out_weight.size(1)), p(channels, width, is_int8(precision)) {
    TORCH_CHECK(x_.dim() == 4 && (axis == 1 || axis == 2) && x_.size(3) == channels &&
                    norm_weight.numel() == channels && groups > 0 && channels % groups == 0 && heads > 0 &&
                    width % heads == 0,
                "locoformer_attention: x ", x_.sizes(), ", axis ", axis, ", out ", out_weight.sizes(), ", heads ", heads);
    TORCH_CHECK(!rope || rope->numel() * 2 * heads == width, "locoformer_attention: rope must be [head width / 2]");
    x = readable(x_);
    args.x = x.const_data_ptr<float>();
    args.at = sequences(x, axis);
    args.heads = heads, args.head_width = width / heads;
    if (x.numel() == 0) return;
    const bool int8 = is_int8(precision);
    blob = packed_or(packed, p.layout.size(), [&] {
      return pack(norm_weight, qkv_weight, out_weight, heads, groups, precision);
    });
    gamma = int8 ? at::ones({channels}, x.options()) : dense(norm_weight);
    args.norm = {gamma.const_data_ptr<float>(), groups, float(eps)};
    p.point(args, reinterpret_cast<const char*>(blob.const_data_ptr<uint8_t>()), int8);
    if (!rope) return;
    const auto angles = at::outer(rope->to(at::kFloat), at::arange(args.padded(p.panel), x.options()));
    cosine = angles.cos(), sine = angles.sin();
    args.cosine = cosine.const_data_ptr<float>(), args.sine = sine.const_data_ptr<float>();
  }

  std::vector<int64_t> kept_sizes() const { return {args.at.count(), args.kept_rows(), args.at.length}; }

  Tensor run_forward(const Tensor* kept) {
    auto y = result(x.sizes());
    if (y.numel() == 0) return y;
    args.y = y.mutable_data_ptr<float>();
    args.kept = kept == nullptr ? nullptr : kept->mutable_data_ptr<float>();
    run_blocks<AttentionArgs>(kernels().attention, args);
    return y;
  }

  // Rows of the output projection's transpose, with spare ones as tiles may read them; panels of channels of the qkv
  // projection's. The units of scores are in the latter: queries are given gradients of scores, which hold 1 / sqrt(head
  // width), and keys gradients times queries that came in units of log2.
  void pack_backward(const Tensor& qkv_weight, const Tensor& out_weight) {
    back = at::zeros({3 * width * p.out_width + (width + p.panel) * channels}, x.options());
    const auto in = dense(qkv_weight), out = dense(out_weight);
    const float *w = in.const_data_ptr<float>(), *o = out.const_data_ptr<float>();
    float* const of_qkv = back.mutable_data_ptr<float>();
    float* const of_out = of_qkv + 3 * width * p.out_width;
    const float query = float(1 / std::sqrt(double(args.head_width))), key = float(1 / kLog2e);
    for (int64_t r = 0; r < 3 * width; ++r) {
      const float factor = r < width ? query : r < 2 * width ? key : 1.0f;
      for (int64_t c = 0; c < channels; ++c)
        of_qkv[(c / p.panel * 3 * width + r) * p.panel + c % p.panel] = w[r * channels + c] * factor;
    }
    for (int64_t r = 0; r < width; ++r)
      for (int64_t c = 0; c < channels; ++c) of_out[r * channels + c] = o[c * width + r];
    args.qkv_back = of_qkv, args.out_back = of_out;
  }
};

Tensor locoformer_attention(const Tensor& x, const Tensor& norm_weight, const Tensor& qkv_weight,
                            const Tensor& out_weight, const std::optional<Tensor>& rope,
                            const std::optional<Tensor>& packed, int64_t axis, int64_t groups, double eps,
                            int64_t heads, c10::string_view precision) {
  if (x.scalar_type() == at::kDouble)
    return reference("ussfast::locoformer_attention", &locoformer_attention, x, norm_weight, qkv_weight, out_weight,
                     rope, packed, axis, groups, eps, heads, precision);
  AttentionCall call(x, norm_weight, qkv_weight, out_weight, rope, packed, axis, groups, eps, heads, precision);
  return call.run_forward(nullptr).to(x.scalar_type());
}

// Also returns what the backward pass needs.
std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& norm_weight, const Tensor& qkv_weight,
                                   const Tensor& out_weight, const std::optional<Tensor>& rope,
                                   const std::optional<Tensor>& packed, int64_t axis, int64_t groups, double eps,
                                   int64_t heads, c10::string_view precision) {
  TORCH_CHECK(!is_int8(precision), "locoformer_attention: int8 has no gradient");
  AttentionCall call(x, norm_weight, qkv_weight, out_weight, rope, packed, axis, groups, eps, heads, precision);
  const auto kept = result(call.kept_sizes());
  const auto y = call.run_forward(&kept);
  return {y, kept};
}

// Of x.
Tensor backward(const Tensor& grad, const Tensor& kept, const Tensor& x, const Tensor& norm_weight,
                const Tensor& qkv_weight, const Tensor& out_weight, const std::optional<Tensor>& rope,
                const std::optional<Tensor>& packed, int64_t axis, int64_t groups, double eps, int64_t heads,
                c10::string_view precision) {
  TORCH_CHECK(!is_int8(precision), "locoformer_attention: int8 has no gradient");
  AttentionCall call(x, norm_weight, qkv_weight, out_weight, rope, packed, axis, groups, eps, heads, precision);
  const auto of_y = dense(grad);
  TORCH_CHECK(of_y.sizes() == x.sizes() && kept.sizes() == at::IntArrayRef(call.kept_sizes()) && kept.is_contiguous() &&
                  kept.scalar_type() == at::kFloat,
              "locoformer_attention: the gradient ", grad.sizes(), " or what was kept ", kept.sizes(), " does not fit x ",
              x.sizes());
  auto of_x = result(x.sizes());
  if (of_x.numel() == 0) return of_x;
  call.pack_backward(qkv_weight, out_weight);
  auto& args = call.args;
  args.grad = of_y.const_data_ptr<float>(), args.grad_x = of_x.mutable_data_ptr<float>();
  args.kept = const_cast<float*>(kept.const_data_ptr<float>());
  run_blocks(kernels().attention_backward, args);
  return of_x;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def("_pack_locoformer_attention(Tensor norm_weight, Tensor qkv_weight, Tensor out_weight, int heads, int groups, "
        "str precision) -> Tensor",
        &pack);
  m.def(
      "_locoformer_attention_forward(Tensor x, Tensor norm_weight, Tensor qkv_weight, Tensor out_weight, Tensor? rope, "
      "Tensor? packed, int axis, int groups, float eps, int heads, str precision) -> (Tensor, Tensor)",
      &forward);
  m.def(
      "_locoformer_attention_backward(Tensor grad, Tensor kept, Tensor x, Tensor norm_weight, Tensor qkv_weight, "
      "Tensor out_weight, Tensor? rope, Tensor? packed, int axis, int groups, float eps, int heads, str precision) -> "
      "Tensor",
      &backward);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("locoformer_attention", &locoformer_attention); }

}  // namespace ussfast
