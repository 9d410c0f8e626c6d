#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "bands.h"
#include "pack.h"
#include "shared.h"

namespace ussfast {
namespace {

using at::Tensor;

constexpr int64_t kGroupChannels = 256;  // bands are computed together until they have as many

// Where the parts of the packed weights lie: per band panels of features, then the biases.
struct Packed {
  Packed(int64_t channels, int64_t bands, int64_t dim) : width(round_up(dim, 2 * kernels().lanes)) {
    weight = layout.add<float>(channels * width);
    bias = layout.add<float>(bands * width);
  }

  Layout layout;
  int64_t width, weight, bias;
};

void check(const Tensor& weight, const Tensor& bias, at::IntArrayRef bands, int64_t channels) {
  TORCH_CHECK(!bands.empty() && bias.dim() == 2 && bias.size(0) == int64_t(bands.size()) && weight.dim() == 1 &&
                  weight.size(0) == channels * bias.size(1),
              "band_split: weights do not fit ", bands.size(), " bands with ", channels, " channels: weight ",
              weight.sizes(), ", bias ", bias.sizes());
}

Tensor pack(const Tensor& weight, const Tensor& bias, at::IntArrayRef bands) {
  const auto edges = edges_of(bands, 2);
  check(weight, bias, bands, edges.back());
  const int64_t count = bands.size(), dim = bias.size(1), panel = 2 * kernels().lanes;
  const Packed p(edges.back(), count, dim);
  auto blob = at::zeros({p.layout.size()}, weight.options().dtype(at::kByte));
  char* base = reinterpret_cast<char*>(blob.mutable_data_ptr<uint8_t>());
  const auto matrices = dense(weight), biases = dense(bias);
  const float *w = matrices.const_data_ptr<float>(), *b = biases.const_data_ptr<float>();
  float *to = reinterpret_cast<float*>(base + p.weight), *to_bias = reinterpret_cast<float*>(base + p.bias);
  at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t band = first; band < last; ++band) {
      const int64_t depth = edges[band + 1] - edges[band];
      for (int64_t n = 0; n < p.width; n += panel) {
        const auto get = [&](int64_t k, int64_t column) {
          return n + column < dim ? w[edges[band] * dim + (n + column) * depth + k] : 0.0f;
        };
        pack_panel(Precision::float32, depth, depth, panel, get,
                   reinterpret_cast<char*>(to + edges[band] * p.width + n * depth), nullptr, nullptr);
      }
      std::copy_n(b + band * dim, dim, to_bias + band * p.width);
    }
  });
  return blob;
}

// First band of every group, then their number.
std::vector<int64_t> group(const std::vector<int64_t>& edges) {
  std::vector<int64_t> groups = {0};
  for (size_t band = 1; band + 1 < edges.size(); ++band)
    if (edges[band] - edges[groups.back()] >= kGroupChannels) groups.push_back(band);
  groups.push_back(edges.size() - 1);
  return groups;
}

Tensor band_split(const Tensor& spec, const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& weight,
                  const Tensor& bias, const std::optional<Tensor>& packed, at::IntArrayRef bands, double eps) {
  if (spec.scalar_type() == at::kDouble)
    return reference("ussfast::band_split", &band_split, spec, norm_weight, norm_bias, weight, bias, packed, bands,
                     eps);
  const auto edges = edges_of(bands, 2);
  check(weight, bias, bands, edges.back());
  TORCH_CHECK(spec.dim() == 4 && spec.size(2) * 2 == edges.back() && spec.size(3) == 2 &&
                  norm_weight.numel() == edges.back() && norm_bias.numel() == edges.back(),
              "band_split: spec ", spec.sizes(), " for bands with ", edges.back() / 2, " bins, norm of ",
              norm_weight.numel(), " channels");
  auto input = readable(spec);
  if (input.stride(2) != 2 || input.stride(3) != 1) input = input.contiguous();
  const int64_t count = bands.size(), dim = bias.size(1);
  auto y = result({spec.size(0), spec.size(1), count, dim});
  if (y.numel() == 0) return y.to(spec.scalar_type());

  const Packed p(edges.back(), count, dim);
  const auto blob = packed_or(packed, p.layout.size(), [&] { return pack(weight, bias, bands); });
  const char* base = reinterpret_cast<const char*>(blob.const_data_ptr<uint8_t>());
  const auto gamma = dense(norm_weight), beta = dense(norm_bias);
  const auto groups = group(edges);
  BandSplitArgs args = {
      .in = {.x = input.const_data_ptr<float>(), .batch = spec.size(0), .frames = spec.size(1),
             .in_batch = input.stride(0), .in_frame = input.stride(1), .bands = count, .edges = edges.data(),
             .mean = nullptr, .scale = nullptr, .weight = gamma.const_data_ptr<float>(),
             .bias = beta.const_data_ptr<float>()},
      .y = y.mutable_data_ptr<float>(),
      .dim = dim,
      .groups = int64_t(groups.size()) - 1,
      .group_edges = groups.data(),
      .weight = reinterpret_cast<const float*>(base + p.weight),
      .bias = reinterpret_cast<const float*>(base + p.bias),
  };
  const BandStatistics statistics(args.in, eps);
  args.in.mean = statistics.mean.data();
  args.in.scale = statistics.scale.data();
  run_blocks(kernels().band_split, args);
  return y.to(spec.scalar_type());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def("_pack_band_split(Tensor weight, Tensor bias, int[] bands) -> Tensor", &pack);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("band_split", &band_split); }

}  // namespace ussfast
