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
  const float query = 1.44269504088896341 / std::sqrt(double(width / heads));
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

Tensor locoformer_attention(const Tensor& x, const Tensor& norm_weight, const Tensor& qkv_weight,
                            const Tensor& out_weight, const std::optional<Tensor>& rope,
                            const std::optional<Tensor>& packed, int64_t axis, int64_t groups, double eps,
                            int64_t heads, c10::string_view precision) {
  if (x.scalar_type() == at::kDouble)
    return reference("ussfast::locoformer_attention", &locoformer_attention, x, norm_weight, qkv_weight, out_weight,
                     rope, packed, axis, groups, eps, heads, precision);
  const int64_t channels = out_weight.size(0), width = out_weight.size(1);
  TORCH_CHECK(x.dim() == 4 && (axis == 1 || axis == 2) && x.size(3) == channels && norm_weight.numel() == channels &&
                  groups > 0 && channels % groups == 0 && heads > 0 && width % heads == 0,
              "locoformer_attention: x ", x.sizes(), ", axis ", axis, ", out ", out_weight.sizes(), ", heads ", heads);
  TORCH_CHECK(!rope || rope->numel() * 2 * heads == width, "locoformer_attention: rope must be [head width / 2]");
  const auto input = readable(x);
  auto y = result(x.sizes());
  if (y.numel() == 0) return y.to(x.scalar_type());
  const bool int8 = is_int8(precision);
  const PackedAttention p(channels, width, int8);
  const auto blob = packed_or(packed, p.layout.size(), [&] {
    return pack(norm_weight, qkv_weight, out_weight, heads, groups, precision);
  });
  const char* base = reinterpret_cast<const char*>(blob.const_data_ptr<uint8_t>());
  const auto gamma = int8 ? at::ones({channels}, input.options()) : dense(norm_weight);
  AttentionArgs args = {
      .x = input.const_data_ptr<float>(),
      .y = y.mutable_data_ptr<float>(),
      .at = sequences(input, axis),
      .norm = {gamma.const_data_ptr<float>(), groups, float(eps)},
      .heads = heads,
      .head_width = width / heads,
  };
  p.point(args, base, int8);
  Tensor cosine, sine;
  if (rope) {
    const auto angles = at::outer(rope->to(at::kFloat), at::arange(args.padded(p.panel), input.options()));
    cosine = angles.cos(), sine = angles.sin();
    args.cosine = cosine.const_data_ptr<float>();
    args.sine = sine.const_data_ptr<float>();
  }
  run_blocks(kernels().attention, args);
  return y.to(x.scalar_type());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def("_pack_locoformer_attention(Tensor norm_weight, Tensor qkv_weight, Tensor out_weight, int heads, int groups, "
        "str precision) -> Tensor",
        &pack);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("locoformer_attention", &locoformer_attention); }

}  // namespace ussfast
