#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "bands.h"
#include "pack.h"
#include "shared.h"

namespace ussfast {
namespace {

using at::IntArrayRef;
using at::Tensor;

constexpr int64_t kParts = 4;  // of a band's blocks, whose gradients of the weights are added in order

// The arguments as kernels read them, for as long as they run.
struct BandTokensCall {
  Tensor features, weight;
  Precision precision;
  int64_t panel;
  std::vector<int64_t> edges, packed_at;
  std::vector<char> packed;
  BandTokensArgs args = {};

  BandTokensCall(const Tensor& features_, const Tensor& weight_, IntArrayRef bands, int64_t dim, c10::string_view name)
      : precision(precision_of(name)), panel(2 * kernels().lanes), edges(edges_of(bands, 1)) {
    TORCH_CHECK(precision != Precision::int8, "band_tokens: precision must be float32 or bfloat16");
    TORCH_CHECK(features_.dim() == 4 && features_.size(2) == edges.back() && dim > 0 &&
                    weight_.numel() == edges.back() * features_.size(3) * dim,
                "band_tokens: features ", features_.sizes(), ", weight ", weight_.sizes(), ", dim ", dim, ", bands ", bands);
    features = dense(features_), weight = dense(weight_);
    args.features = features.const_data_ptr<float>();
    args.rows = features.size(0) * features.size(1), args.bands = bands.size(), args.count = features.size(3);
    args.dim = dim, args.edges = edges.data();
  }

  int64_t channels() const { return round_up(args.dim, panel); }

  // Panels of channels, or of the features of a band.
  void pack(bool back) {
    const int64_t group = group_of(precision);
    int64_t size = 0;
    for (int64_t b = 0; b < args.bands; ++b) {
      packed_at.push_back(size);
      const int64_t rows = back ? args.dim : args.depth(b), columns = back ? args.depth(b) : args.dim;
      size += round_up(rows, group) / group * round_up(columns, panel) * 4;
    }
    packed.assign(size, 0);
    at::parallel_for(0, args.bands, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        const float* from = weight.const_data_ptr<float>() + edges[b] * args.count * args.dim;
        const int64_t dim = args.dim, rows = back ? dim : args.depth(b), columns = back ? args.depth(b) : dim;
        std::vector<int64_t> places(round_up(columns, panel));
        for (int64_t c = 0; c < int64_t(places.size()); ++c) places[c] = c < columns ? c : -1;
        pack_lines(precision, rows, round_up(rows, group) / group, panel, places,
                   [&](int64_t k) { return back ? Line{from + k, dim} : Line{from + k * dim, 1}; },
                   packed.data() + packed_at[b]);
      }
    });
    args.packed = packed.data(), args.packed_at = packed_at.data();
  }
};

Tensor band_tokens(const Tensor& features, const Tensor& weight, IntArrayRef bands, int64_t dim,
                   c10::string_view precision) {
  if (features.scalar_type() == at::kDouble)
    return reference("ussfast::band_tokens", &band_tokens, features, weight, bands, dim, precision);
  BandTokensCall call(features, weight, bands, dim, precision);
  auto y = result({features.size(0), features.size(1), call.args.bands, dim});
  if (y.numel() > 0) {
    call.pack(false);
    call.args.y = y.mutable_data_ptr<float>();
    run_blocks(kernels().band_tokens[int(call.precision)], call.args);
  }
  return y.to(features.scalar_type());
}

// Of features and weight.
std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& features, const Tensor& weight, IntArrayRef bands,
                                    int64_t dim, c10::string_view precision) {
  BandTokensCall call(features, weight, bands, dim, precision);
  auto& args = call.args;
  const auto of_y = dense(grad);
  TORCH_CHECK(of_y.numel() == args.rows * args.bands * dim, "band_tokens: the gradient ", grad.sizes(),
              " does not fit features ", features.sizes());
  auto of_features = result(features.sizes()), of_weight = at::empty(weight.sizes(), of_y.options());
  if (args.rows == 0) return {of_features, of_weight.zero_()};
  call.pack(true);
  const int64_t channels = call.channels();
  const auto size = [&](int64_t band) { return (args.depth(band) + 4) * channels; };
  std::vector<int64_t> sums_at = {0};
  args.parts = kParts;
  for (int64_t b = 0; b < args.bands; ++b) sums_at.push_back(sums_at.back() + args.parts * size(b));
  auto sums = result({sums_at.back()});
  args.sums = sums.mutable_data_ptr<float>(), args.sums_at = sums_at.data();
  args.grad = of_y.const_data_ptr<float>();
  args.grad_features = of_features.mutable_data_ptr<float>();
  run_blocks(kernels().band_tokens_backward[int(call.precision)], args);

  at::parallel_for(0, args.bands, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      float* to = of_weight.mutable_data_ptr<float>() + call.edges[b] * args.count * dim;
      for (int64_t k = 0; k < args.depth(b); ++k, to += dim) {
        const float* from = args.sums + sums_at[b] + k * channels;
        std::copy_n(from, dim, to);
        for (int64_t part = 1; part < args.parts; ++part)
          for (int64_t c = 0; c < dim; ++c) to[c] += from[part * size(b) + c];
      }
    }
  });
  return {of_features, of_weight};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def(
      "_band_tokens_backward(Tensor grad, Tensor features, Tensor weight, int[] bands, int dim, str precision) -> "
      "(Tensor, Tensor)",
      &backward);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("band_tokens", &band_tokens); }

}  // namespace ussfast
