#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "pack.h"
#include "shared.h"

namespace ussfast {
namespace {

using at::Tensor;

constexpr double kLog2e = 1.44269504088896341;
constexpr float kHidden = -1e30f;  // kHidden of kernels/attention.h: as good as -inf, but never gives NaN

int64_t packed_size(int64_t heads, int64_t queries, int64_t keys) {
  return heads * round_up(queries, 2 * kernels().lanes) * keys * int64_t(sizeof(float));
}

// Bias times slope in units of log2: [heads, panels of queries, keys, queries of a panel].
Tensor pack(const Tensor& bias, const std::optional<Tensor>& slope) {
  TORCH_CHECK(bias.dim() == 3 && (!slope || slope->sizes() == at::IntArrayRef({bias.size(0)})),
              "biased_cross_attention: bias must be [heads, queries, keys] and slope [heads], got bias ", bias.sizes());
  const int64_t heads = bias.size(0), queries = bias.size(1), keys = bias.size(2), panel = 2 * kernels().lanes;
  auto blob = at::zeros({packed_size(heads, queries, keys)}, bias.options().dtype(at::kByte));
  float* to = reinterpret_cast<float*>(blob.mutable_data_ptr<uint8_t>());
  const auto values = dense(bias), slopes = slope ? dense(*slope) : Tensor();
  const float* from = values.const_data_ptr<float>();
  for (int64_t head = 0; head < heads; ++head) {
    const double scale = kLog2e * (slope ? slopes.const_data_ptr<float>()[head] : 1.0f);
    for (int64_t first = 0; first < queries; first += panel, to += panel * keys)
      for (int64_t i = 0; i < std::min(panel, queries - first); ++i)
        for (int64_t key = 0; key < keys; ++key) {
          const float value = from[(head * queries + first + i) * keys + key];
          const float scaled = float(value * scale);
          to[key * panel + i] = std::isinf(value) && value < 0 ? kHidden : std::max(scaled, kHidden);
        }
  }
  return blob;
}

HeadRows rows_of(const Tensor& x) {
  return {x.const_data_ptr<float>(), x.size(0) == 1 ? 0 : x.stride(0), x.stride(1), x.stride(2)};
}

Tensor biased_cross_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bias,
                              const std::optional<Tensor>& slope, const std::optional<Tensor>& packed) {
  if (q.scalar_type() == at::kDouble)
    return reference("ussfast::biased_cross_attention", &biased_cross_attention, q, k, v, bias, slope, packed);
  TORCH_CHECK(q.dim() == 4 && k.dim() == 4 && k.sizes() == v.sizes() && q.sizes().slice(2) == k.sizes().slice(2) &&
                  (q.size(0) == 1 || q.size(0) == k.size(0)) && k.size(1) > 0 && k.size(2) > 0 && k.size(3) > 0,
              "biased_cross_attention: q ", q.sizes(), ", k ", k.sizes(), ", v ", v.sizes());
  const int64_t batch = k.size(0), queries = q.size(1), keys = k.size(1), heads = k.size(2), width = k.size(3);
  TORCH_CHECK(!bias || bias->sizes() == at::IntArrayRef({heads, queries, keys}),
              "biased_cross_attention: bias must be [heads, queries, keys]");
  TORCH_CHECK(!slope || slope->sizes() == at::IntArrayRef({heads}), "biased_cross_attention: slope must be [heads]");
  const auto q32 = readable(q), k32 = readable(k), v32 = readable(v);
  auto y = result({batch, queries, heads * width});
  if (y.numel() == 0) return y.to(q.scalar_type());

  CrossAttentionArgs args = {
      .q = rows_of(q32),
      .k = rows_of(k32),
      .v = rows_of(v32),
      .y = y.mutable_data_ptr<float>(),
      .batch = batch,
      .queries = queries,
      .keys = keys,
      .heads = heads,
      .width = width,
      .scale = float(kLog2e / std::sqrt(double(width))),
      .bias = nullptr,
  };
  Tensor blob;
  if (bias) {
    blob = packed_or(packed, packed_size(heads, queries, keys), [&] { return pack(*bias, slope); });
    args.bias = reinterpret_cast<const float*>(blob.const_data_ptr<uint8_t>());
  }
  run_blocks(kernels().cross_attention, args);
  return y.to(q.scalar_type());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def("_pack_biased_cross_attention(Tensor bias, Tensor? slope) -> Tensor", &pack);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("biased_cross_attention", &biased_cross_attention); }

}  // namespace ussfast
