#include <ATen/ops/arange.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "pack.h"
#include "shared.h"

namespace ussfast {
namespace {

using at::Tensor;

// Where the parts of the packed weights lie: rows of the qkv projection as they are, with spare rows for tiles that
// reach over the end, and panels of the output projection.
struct Packed {
  Packed(int64_t channels, int64_t width) : panel(2 * kernels().lanes), out_width(round_up(channels, panel)) {
    qkv = layout.add<float>((3 * width + panel) * channels);
    out = layout.add<float>(out_width * width);
  }
  Layout layout;
  int64_t panel, out_width, qkv, out;
};

Tensor pack(const Tensor& qkv_weight, const Tensor& out_weight, int64_t heads) {
  const int64_t channels = out_weight.size(0), width = out_weight.size(1);
  TORCH_CHECK(qkv_weight.sizes() == at::IntArrayRef({3 * width, channels}) && heads > 0 && width % heads == 0,
              "locoformer_attention: weights do not fit together: qkv ", qkv_weight.sizes(), ", out ",
              out_weight.sizes(), ", heads ", heads);
  const Packed p(channels, width);
  auto blob = at::zeros({p.layout.size()}, qkv_weight.options().dtype(at::kByte));
  char* base = reinterpret_cast<char*>(blob.mutable_data_ptr<uint8_t>());
  const auto in = dense(qkv_weight), out = dense(out_weight);
  const float *w = in.const_data_ptr<float>(), *o = out.const_data_ptr<float>();
  // Scores come out scaled by 1/sqrt(head width), in units of log2.
  const float scale = 1.44269504088896341 / std::sqrt(double(width / heads));
  float* rows = reinterpret_cast<float*>(base + p.qkv);
  for (int64_t i = 0; i < 3 * width * channels; ++i) rows[i] = w[i] * (i < width * channels ? scale : 1.0f);
  for (int64_t c = 0; c < p.out_width; c += p.panel) {
    const auto get = [&](int64_t k, int64_t n) { return c + n < channels ? o[(c + n) * width + k] : 0.0f; };
    pack_panel(Precision::float32, width, width, p.panel, get, base + p.out + c * width * 4, nullptr, nullptr);
  }
  return blob;
}

Tensor locoformer_attention(const Tensor& x, const Tensor& norm_weight, const Tensor& qkv_weight,
                            const Tensor& out_weight, const std::optional<Tensor>& rope,
                            const std::optional<Tensor>& packed, int64_t axis, int64_t groups, double eps,
                            int64_t heads, bool causal, int64_t window, int64_t prefix) {
  if (x.scalar_type() == at::kDouble)
    return reference("ussfast::locoformer_attention", &locoformer_attention, x, norm_weight, qkv_weight, out_weight,
                     rope, packed, axis, groups, eps, heads, causal, window, prefix);
  const int64_t channels = out_weight.size(0), width = out_weight.size(1);
  TORCH_CHECK(x.dim() == 4 && (axis == 1 || axis == 2) && x.size(3) == channels && norm_weight.numel() == channels &&
                  groups > 0 && channels % groups == 0 && heads > 0 && width % heads == 0 && window >= 0 && prefix >= 0,
              "locoformer_attention: x ", x.sizes(), ", axis ", axis, ", out ", out_weight.sizes(), ", heads ", heads);
  TORCH_CHECK(!rope || rope->numel() * 2 * heads == width, "locoformer_attention: rope must be [head width / 2]");
  const auto input = readable(x);
  auto y = at::empty(x.sizes(), input.options());
  if (y.numel() == 0) return y.to(x.scalar_type());
  const Packed p(channels, width);
  const auto blob = packed_or(packed, p.layout.size(), [&] { return pack(qkv_weight, out_weight, heads); });
  const char* base = reinterpret_cast<const char*>(blob.const_data_ptr<uint8_t>());
  const auto gamma = dense(norm_weight);
  AttentionArgs args = {
      .x = input.const_data_ptr<float>(),
      .y = y.mutable_data_ptr<float>(),
      .at = sequences(input, axis),
      .norm = {gamma.const_data_ptr<float>(), groups, float(eps)},
      .heads = heads,
      .head_width = width / heads,
      .window = window,
      .prefix = prefix,
      .causal = causal,
      .qkv = reinterpret_cast<const float*>(base + p.qkv),
      .out = reinterpret_cast<const float*>(base + p.out),
      .cosine = nullptr,
      .sine = nullptr,
  };
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
  m.def("_pack_locoformer_attention(Tensor qkv_weight, Tensor out_weight, int heads) -> Tensor", &pack);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("locoformer_attention", &locoformer_attention); }

}  // namespace ussfast
