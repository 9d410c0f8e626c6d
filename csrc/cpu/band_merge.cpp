#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "bands.h"
#include "pack.h"
#include "shared.h"

namespace ussfast {
namespace {

using at::Tensor;

constexpr double kEps = 1e-5;  // of the norm, as in ussfast/ops/band_merge.py

// Values and gates that the last layer's panel has of each, when `left` values remain: kernels/bands.h takes the same.
int64_t glu_panel(int64_t left) {
  const int64_t lanes = kernels().lanes;
  return left > lanes / 2 ? lanes : lanes / 2;
}

// Where the parts of the packed weights lie: per layer panels of every band, then the biases in the same order.
struct Packed {
  Packed(at::IntArrayRef bands, int64_t dim, int64_t hidden, int64_t sources)
      : width(round_up(hidden, 2 * kernels().lanes)), columns({0}) {
    for (const int64_t band : bands) {
      int64_t values = 2 * band * sources, padded = 0;
      for (; values > 0; values -= glu_panel(values)) padded += glu_panel(values);
      columns.push_back(columns.back() + 2 * padded);
    }
    const int64_t all = bands.size() * width;
    weight1 = layout.add<float>(all * dim);
    bias1 = layout.add<float>(all);
    weight2 = layout.add<float>(all * hidden);
    bias2 = layout.add<float>(all);
    weight3 = layout.add<float>(columns.back() * hidden);
    bias3 = layout.add<float>(columns.back());
  }

  Layout layout;
  int64_t width;
  std::vector<int64_t> columns;  // first packed column of every band in the last layer, then their number
  int64_t weight1, bias1, weight2, bias2, weight3, bias3;
};

void check(const Tensor& weight1, const Tensor& bias1, const Tensor& weight2, const Tensor& bias2,
           const Tensor& weight3, const Tensor& bias3, at::IntArrayRef bands, int64_t sources) {
  TORCH_CHECK(!bands.empty() && sources > 0 && weight1.dim() == 3, "band_merge: ", bands.size(), " bands, ", sources,
              " sources, weight1 ", weight1.sizes());
  const int64_t count = bands.size(), hidden = weight1.size(1), rows = edges_of(bands, 4 * sources).back();
  TORCH_CHECK(weight1.size(0) == count && weight2.sizes() == at::IntArrayRef({count, hidden, hidden}) &&
                  bias1.sizes() == at::IntArrayRef({count, hidden}) && bias2.sizes() == bias1.sizes() &&
                  weight3.numel() == rows * hidden && bias3.numel() == rows,
              "band_merge: weights do not fit ", count, " bands with ", rows, " output rows: ", weight1.sizes(), ", ",
              weight2.sizes(), ", ", weight3.sizes());
}

// [width, depth] as panels; `width` padded columns in all.
void pack_layer(const float* from, const float* bias, int64_t rows, int64_t depth, int64_t width, float* to,
                float* to_bias) {
  const int64_t panel = 2 * kernels().lanes;
  for (int64_t n = 0; n < width; n += panel) {
    const auto get = [&](int64_t k, int64_t column) {
      return n + column < rows ? from[(n + column) * depth + k] : 0.0f;
    };
    pack_panel(Precision::float32, depth, depth, panel, get, reinterpret_cast<char*>(to + n * depth), nullptr, nullptr);
  }
  std::copy_n(bias, rows, to_bias);
}

// The last layer of one band. Its columns come in the order of the output: sources slowest, then bins, then re/im.
void pack_glu(const float* from, const float* bias, int64_t width, int64_t sources, int64_t depth, float* to,
              float* to_bias) {
  const int64_t values = 2 * width * sources;
  for (int64_t n = 0; n < values;) {
    const int64_t panel = glu_panel(values - n);
    const auto source = [&](int64_t column) {  // row of the weights, or -1
      const int64_t value = n + column % panel, pair = value % (2 * width);
      const int64_t row = (value / (2 * width) * 2 + pair % 2) * width + pair / 2;
      return value < values ? column / panel * values + row : -1;
    };
    const auto get = [&](int64_t k, int64_t column) {
      const int64_t row = source(column);
      return row < 0 ? 0.0f : from[row * depth + k];
    };
    pack_panel(Precision::float32, depth, depth, 2 * panel, get, reinterpret_cast<char*>(to), nullptr, nullptr);
    for (int64_t column = 0; column < 2 * panel; ++column)
      if (source(column) >= 0) to_bias[column] = bias[source(column)];
    to += 2 * panel * depth;
    to_bias += 2 * panel;
    n += panel;
  }
}

Tensor pack(const Tensor& weight1, const Tensor& bias1, const Tensor& weight2, const Tensor& bias2,
            const Tensor& weight3, const Tensor& bias3, at::IntArrayRef bands, int64_t sources) {
  check(weight1, bias1, weight2, bias2, weight3, bias3, bands, sources);
  const int64_t count = bands.size(), hidden = weight1.size(1), dim = weight1.size(2);
  const auto edges = edges_of(bands, 4 * sources);
  const Packed p(bands, dim, hidden, sources);
  auto blob = at::zeros({p.layout.size()}, weight1.options().dtype(at::kByte));
  char* base = reinterpret_cast<char*>(blob.mutable_data_ptr<uint8_t>());
  const auto to = [&](int64_t at) { return reinterpret_cast<float*>(base + at); };
  const Tensor tensors[] = {dense(weight1), dense(bias1), dense(weight2), dense(bias2), dense(weight3), dense(bias3)};
  const auto from = [&](int64_t i) { return tensors[i].const_data_ptr<float>(); };
  at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      pack_layer(from(0) + i * hidden * dim, from(1) + i * hidden, hidden, dim, p.width,
                 to(p.weight1) + i * p.width * dim, to(p.bias1) + i * p.width);
      pack_layer(from(2) + i * hidden * hidden, from(3) + i * hidden, hidden, hidden, p.width,
                 to(p.weight2) + i * p.width * hidden, to(p.bias2) + i * p.width);
      pack_glu(from(4) + edges[i] * hidden, from(5) + edges[i], bands[i], sources, hidden,
               to(p.weight3) + p.columns[i] * hidden, to(p.bias3) + p.columns[i]);
    }
  });
  return blob;
}

Tensor band_merge(const Tensor& x, const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& weight1,
                  const Tensor& bias1, const Tensor& weight2, const Tensor& bias2, const Tensor& weight3,
                  const Tensor& bias3, const std::optional<Tensor>& packed, at::IntArrayRef bands, int64_t sources) {
  if (x.scalar_type() == at::kDouble)
    return reference("ussfast::band_merge", &band_merge, x, norm_weight, norm_bias, weight1, bias1, weight2, bias2,
                     weight3, bias3, packed, bands, sources);
  check(weight1, bias1, weight2, bias2, weight3, bias3, bands, sources);
  const int64_t count = bands.size(), hidden = weight1.size(1), dim = weight1.size(2);
  TORCH_CHECK(x.dim() == 4 && x.size(2) == count && x.size(3) == dim && norm_weight.numel() == count * dim &&
                  norm_bias.numel() == count * dim,
              "band_merge: x ", x.sizes(), ", norm ", norm_weight.sizes(), ", weight1 ", weight1.sizes());
  auto input = readable(x);
  if (input.stride(2) != dim || input.stride(3) != 1) input = input.contiguous();
  const auto bins = edges_of(bands, 1);
  auto y = result({x.size(0), sources, x.size(1), bins.back(), 2});
  if (y.numel() == 0) return y.to(x.scalar_type());

  const Packed p(bands, dim, hidden, sources);
  const auto blob = packed_or(packed, p.layout.size(), [&] {
    return pack(weight1, bias1, weight2, bias2, weight3, bias3, bands, sources);
  });
  const char* base = reinterpret_cast<const char*>(blob.const_data_ptr<uint8_t>());
  const auto floats = [&](int64_t at) { return reinterpret_cast<const float*>(base + at); };
  const auto gamma = dense(norm_weight), beta = dense(norm_bias);
  std::vector<int64_t> edges;  // every band has the same number of channels
  for (int64_t band = 0; band <= count; ++band) edges.push_back(band * dim);
  BandMergeArgs args = {
      .in = {.x = input.const_data_ptr<float>(), .batch = x.size(0), .frames = x.size(1), .in_batch = input.stride(0),
             .in_frame = input.stride(1), .bands = count, .edges = edges.data(), .mean = nullptr, .scale = nullptr,
             .weight = gamma.const_data_ptr<float>(), .bias = beta.const_data_ptr<float>()},
      .y = y.mutable_data_ptr<float>(),
      .dim = dim,
      .hidden = hidden,
      .sources = sources,
      .bins = bins.data(),
      .columns = p.columns.data(),
      .weight1 = floats(p.weight1),
      .bias1 = floats(p.bias1),
      .weight2 = floats(p.weight2),
      .bias2 = floats(p.bias2),
      .weight3 = floats(p.weight3),
      .bias3 = floats(p.bias3),
  };
  const BandStatistics statistics(args.in, kEps);
  args.in.mean = statistics.mean.data();
  args.in.scale = statistics.scale.data();
  run_blocks(kernels().band_merge, args);
  return y.to(x.scalar_type());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def(
      "_pack_band_merge(Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, Tensor weight3, Tensor bias3, "
      "int[] bands, int sources) -> Tensor",
      &pack);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("band_merge", &band_merge); }

}  // namespace ussfast
