#include <tuple>
#include <vector>

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

// The arguments as kernels read them, for as long as they run.
struct CrossAttentionCall {
  Tensor q, k, v, blob;
  CrossAttentionGradArgs args = {};

  CrossAttentionCall(const Tensor& q_, const Tensor& k_, const Tensor& v_, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& slope, const std::optional<Tensor>& packed) {
    TORCH_CHECK(q_.dim() == 4 && k_.dim() == 4 && k_.sizes() == v_.sizes() && q_.sizes().slice(2) == k_.sizes().slice(2) &&
                    (q_.size(0) == 1 || q_.size(0) == k_.size(0)) && k_.size(1) > 0 && k_.size(2) > 0 && k_.size(3) > 0,
                "biased_cross_attention: q ", q_.sizes(), ", k ", k_.sizes(), ", v ", v_.sizes());
    const int64_t queries = q_.size(1), keys = k_.size(1), heads = k_.size(2), width = k_.size(3);
    TORCH_CHECK(!bias || bias->sizes() == at::IntArrayRef({heads, queries, keys}),
                "biased_cross_attention: bias must be [heads, queries, keys]");
    TORCH_CHECK(!slope || slope->sizes() == at::IntArrayRef({heads}), "biased_cross_attention: slope must be [heads]");
    q = readable(q_), k = readable(k_), v = readable(v_);
    args.q = rows_of(q), args.k = rows_of(k), args.v = rows_of(v);
    args.batch = k.size(0), args.queries = queries, args.keys = keys, args.heads = heads, args.width = width;
    args.scale = float(kLog2e / std::sqrt(double(width)));
    if (bias) {
      blob = packed_or(packed, packed_size(heads, queries, keys), [&] { return pack(*bias, slope); });
      args.bias = reinterpret_cast<const float*>(blob.const_data_ptr<uint8_t>());
    }
  }

  std::vector<int64_t> kept_sizes() const { return {args.batch, args.heads, 2, args.queries}; }

  Tensor run_forward(const Tensor* kept) {
    auto y = result({args.batch, args.queries, args.heads * args.width});
    if (y.numel() == 0) return y;
    args.y = y.mutable_data_ptr<float>();
    args.kept = kept == nullptr ? nullptr : kept->mutable_data_ptr<float>();
    run_blocks<CrossAttentionArgs>(kernels().cross_attention, args);
    return y;
  }
};

Tensor biased_cross_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bias,
                              const std::optional<Tensor>& slope, const std::optional<Tensor>& packed) {
  if (q.scalar_type() == at::kDouble)
    return reference("ussfast::biased_cross_attention", &biased_cross_attention, q, k, v, bias, slope, packed);
  return CrossAttentionCall(q, k, v, bias, slope, packed).run_forward(nullptr).to(q.scalar_type());
}

// Also returns what the backward pass needs beside the result.
std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bias,
                                   const std::optional<Tensor>& slope, const std::optional<Tensor>& packed) {
  CrossAttentionCall call(q, k, v, bias, slope, packed);
  const auto kept = result(call.kept_sizes());
  const auto y = call.run_forward(&kept);
  return {y, kept};
}

// Of q, k and v.
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& y, const Tensor& kept, const Tensor& q,
                                            const Tensor& k, const Tensor& v, const std::optional<Tensor>& bias,
                                            const std::optional<Tensor>& slope, const std::optional<Tensor>& packed) {
  CrossAttentionCall call(q, k, v, bias, slope, packed);
  auto& args = call.args;
  const auto of_y = dense(grad), mixed = dense(y);
  TORCH_CHECK(of_y.sizes() == at::IntArrayRef({args.batch, args.queries, args.heads * args.width}) &&
                  mixed.sizes() == of_y.sizes() && kept.sizes() == at::IntArrayRef(call.kept_sizes()) &&
                  kept.is_contiguous() && kept.scalar_type() == at::kFloat,
              "biased_cross_attention: the gradient ", grad.sizes(), " or what was kept ", kept.sizes(), " does not fit k ",
              k.sizes());
  const bool shared = q.size(0) != args.batch;
  auto of_k = result(k.sizes()), of_v = result(k.sizes());
  auto of_q = result({args.batch, args.queries, args.heads, args.width});
  if (of_y.numel() == 0) return {at::zeros(q.sizes(), of_y.options()), of_k.zero_(), of_v.zero_()};
  args.mixed = mixed.const_data_ptr<float>(), args.grad = of_y.const_data_ptr<float>();
  args.kept = const_cast<float*>(kept.const_data_ptr<float>());
  args.grad_q = of_q.mutable_data_ptr<float>();
  args.grad_k = of_k.mutable_data_ptr<float>(), args.grad_v = of_v.mutable_data_ptr<float>();
  run_blocks(kernels().cross_attention_backward, args);
  if (!shared) return {of_q, of_k, of_v};
  // Items are added in their order, whatever the number of threads.
  auto sum = at::zeros(q.sizes(), of_y.options());
  float* const to = sum.mutable_data_ptr<float>();
  const int64_t size = sum.numel();
  at::parallel_for(0, size, 1024, [&](int64_t first, int64_t last) {
    for (int64_t item = 0; item < args.batch; ++item)
      for (int64_t i = first; i < last; ++i) to[i] += args.grad_q[item * size + i];
  });
  return {sum, of_k, of_v};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def("_pack_biased_cross_attention(Tensor bias, Tensor? slope) -> Tensor", &pack);
  m.def(
      "_biased_cross_attention_forward(Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? slope, Tensor? packed) -> "
      "(Tensor, Tensor)",
      &forward);
  m.def(
      "_biased_cross_attention_backward(Tensor grad, Tensor y, Tensor kept, Tensor q, Tensor k, Tensor v, Tensor? bias, "
      "Tensor? slope, Tensor? packed) -> (Tensor, Tensor, Tensor)",
      &backward);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("biased_cross_attention", &biased_cross_attention); }

}  // namespace ussfast
