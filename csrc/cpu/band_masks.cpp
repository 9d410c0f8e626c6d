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
struct BandMasksCall {
  Tensor x, features, norm, inner, weigh, outer, bias;
  Precision precision;
  int64_t hidden, lanes, panel, rows;
  std::vector<int64_t> edges, packed_at;
  std::vector<char> packed;
  BandMasksArgs args = {};

  BandMasksCall(const Tensor& x_, const Tensor& features_, const Tensor& norm_, const Tensor& inner_,
                const Tensor& weigh_, const Tensor& outer_, const Tensor& bias_, IntArrayRef bands, double eps,
                c10::string_view name)
      : precision(precision_of(name)), edges(edges_of(bands, 1)) {
    TORCH_CHECK(precision != Precision::int8, "band_masks: precision must be float32 or bfloat16");
    const int64_t count = bands.size(), bins = edges.back();
    TORCH_CHECK(x_.dim() == 5 && features_.dim() == 4 && inner_.dim() == 3 && weigh_.dim() == 3 && x_.size(3) == count &&
                    features_.size(0) == x_.size(0) && features_.size(1) == x_.size(2) && features_.size(2) == bins &&
                    inner_.sizes() == IntArrayRef({count, x_.size(4), 2 * weigh_.size(1)}) &&
                    weigh_.size(0) == count && weigh_.size(2) == 2 * features_.size(3) && norm_.numel() == x_.size(4) &&
                    outer_.numel() == 2 * bins * weigh_.size(1) && bias_.numel() == 2 * bins,
                "band_masks: x ", x_.sizes(), ", features ", features_.sizes(), ", inner ", inner_.sizes(), ", weigh ",
                weigh_.sizes(), ", outer ", outer_.sizes(), ", bands ", bands);
    x = dense(x_), features = dense(features_), norm = dense(norm_), inner = dense(inner_), weigh = dense(weigh_);
    outer = dense(outer_), bias = dense(bias_);
    hidden = weigh.size(1), lanes = kernels().lanes, panel = 2 * lanes;
    args.x = x.const_data_ptr<float>(), args.features = features.const_data_ptr<float>();
    args.norm = norm.const_data_ptr<float>();
    args.eps = float(eps);
    args.batch = x.size(0), args.sources = x.size(1), args.frames = x.size(2), args.bands = count, args.dim = x.size(4);
    args.units = 2 * round_up(hidden, panel), args.count = features.size(3), args.edges = edges.data();
    rows = count * args.batch * args.sources * args.frames;
  }

  int64_t columns() const { return 2 * args.bins(); }
  int64_t unit_words() const { return args.units / group_of(precision); }
  MaskPanels panels(int64_t band) const { return MaskPanels(args, band, lanes, group_of(precision)); }

  // Column of `inner` for a value or gate in its panel; -1 for padding.
  int64_t source(int64_t u) const {
    const int64_t unit = u / panel * lanes + u % lanes;
    return unit >= hidden ? -1 : u % panel < lanes ? unit : hidden + unit;
  }
  // A band's bin (times two, plus one for the imaginary part) for a column in its panel.
  int64_t bin(int64_t c) const { return 2 * (c / panel * lanes + c % lanes) + (c % panel >= lanes); }

  // As many columns as there are, each from(its place in the panels).
  template <class From>
  std::vector<int64_t> columns_of(int64_t count, const From& from) const {
    std::vector<int64_t> columns(count);
    for (int64_t c = 0; c < count; ++c) columns[c] = from(c);
    return columns;
  }
  std::vector<int64_t> first(int64_t some, int64_t count) const {
    return columns_of(count, [&](int64_t c) { return c < some ? c : -1; });
  }

  // Matrices of a band.
  struct Band {
    const float *inner, *weigh, *outer, *bias;
    int64_t width;
  };
  Band of(int64_t b) const {
    const int64_t edge = edges[b];
    return {inner.const_data_ptr<float>() + b * args.dim * 2 * hidden,
            weigh.const_data_ptr<float>() + b * hidden * 2 * args.count,
            outer.const_data_ptr<float>() + 2 * edge * hidden, bias.const_data_ptr<float>() + 2 * edge, args.width(b)};
  }

  template <class PackBand>
  void pack_bands(bool back, const PackBand& pack_band) {
    int64_t size = 0;
    for (int64_t b = 0; b < args.bands; ++b) {
      packed_at.push_back(size);
      size += (back ? panels(b).size_back : panels(b).size) * 4;
    }
    packed.assign(size, 0);
    at::parallel_for(0, args.bands, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) pack_band(of(b), panels(b), packed.data() + packed_at[b]);
    });
    args.packed = packed.data(), args.packed_at = packed_at.data();
  }

  void pack_forward() {
    pack_bands(false, [&](const Band& w, const MaskPanels& at, char* base) {
      const int64_t wide = 2 * hidden, count = 2 * args.count, bins = 2 * w.width;
      const auto columns = columns_of(at.bin_columns, [&](int64_t c) { return bin(c) < bins ? bin(c) : -1; });
      pack_lines(precision, args.dim, at.dim_words, panel, columns_of(args.units, [&](int64_t u) { return source(u); }),
                 [&](int64_t k) { return Line{w.inner + k * wide, 1}; }, base);
      pack_lines(precision, hidden, at.hidden_words, panel, first(count, at.weigh_columns),
                 [&](int64_t k) { return Line{w.weigh + k * count, 1}; }, base + at.weigh * 4);
      pack_lines(precision, hidden, at.hidden_words, panel, columns,
                 [&](int64_t k) { return Line{w.outer + k * bins, 1}; }, base + at.outer * 4);
      for (int64_t c = 0; c < at.bin_columns; ++c)
        if (columns[c] >= 0) reinterpret_cast<float*>(base)[at.bias + c] = w.bias[columns[c]];
    });
  }

  // Where a row of the heads' gradients lies in the row of a hidden unit: in `outer`, or else in `weigh`.
  struct Head {
    bool in_outer;
    int64_t column;
  };
  Head head(int64_t row, int64_t width) const {
    const int64_t half = width + args.count, part = row / half, i = row % half;
    return i < width ? Head{true, 2 * i + part} : Head{false, part * args.count + i - width};
  }

  void pack_backward() {
    pack_bands(true, [&](const Band& w, const MaskPanels& at, char* base) {
      const int64_t wide = 2 * hidden, count = 2 * args.count, bins = 2 * w.width;
      const auto line = [&](int64_t k) {
        const Head from = head(k, w.width);
        return from.in_outer ? Line{w.outer + from.column, bins} : Line{w.weigh + from.column, count};
      };
      pack_lines(precision, bins + count, at.head_words, panel, first(hidden, args.units / 2), line, base);
      pack_lines(precision, args.units, at.unit_words, panel, first(args.dim, at.channel_columns),
                 [&](int64_t u) { return source(u) < 0 ? Line{nullptr, 0} : Line{w.inner + source(u), wide}; },
                 base + at.inner_back * 4);
    });
  }

  Tensor run_forward(const Tensor* saved, const Tensor* weights) {
    auto y = result({args.batch, args.sources, args.frames, args.bins(), 2});
    if (y.numel() == 0) return y;
    pack_forward();
    args.y = y.mutable_data_ptr<float>();
    args.saved = saved == nullptr ? nullptr : reinterpret_cast<char*>(saved->mutable_data_ptr<float>());
    args.weights = weights == nullptr ? nullptr : weights->mutable_data_ptr<float>();
    run_blocks(kernels().band_masks[int(precision)], args);
    return y;
  }
};

Tensor band_masks(const Tensor& x, const Tensor& features, const Tensor& norm, const Tensor& inner,
                  const Tensor& weigh, const Tensor& outer, const Tensor& bias, IntArrayRef bands, double eps,
                  c10::string_view precision) {
  if (x.scalar_type() == at::kDouble)
    return reference("ussfast::band_masks", &band_masks, x, features, norm, inner, weigh, outer, bias, bands, eps,
                     precision);
  BandMasksCall call(x, features, norm, inner, weigh, outer, bias, bands, eps, precision);
  return call.run_forward(nullptr, nullptr).to(x.scalar_type());
}

// Also returns what the backward pass needs: pre-activations, and the weights of features with a vector to spare.
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& features, const Tensor& norm,
                                           const Tensor& inner, const Tensor& weigh, const Tensor& outer,
                                           const Tensor& bias, IntArrayRef bands, double eps,
                                           c10::string_view precision) {
  BandMasksCall call(x, features, norm, inner, weigh, outer, bias, bands, eps, precision);
  const auto saved = result({call.rows, call.unit_words()});
  const auto weights = result({call.rows * 2 * call.args.count + call.panel});
  const auto y = call.run_forward(&saved, &weights);
  return {y, saved, weights};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Of x, features, norm, inner, weigh, outer, bias. frozen: of x alone, the others are empty.
Gradients backward(const Tensor& grad, const Tensor& saved, const Tensor& weights, const Tensor& x,
                   const Tensor& features, const Tensor& norm, const Tensor& inner, const Tensor& weigh,
                   const Tensor& outer, const Tensor& bias, IntArrayRef bands, double eps, c10::string_view precision,
                   bool frozen) {
  BandMasksCall call(x, features, norm, inner, weigh, outer, bias, bands, eps, precision);
  auto& args = call.args;
  const auto of_y = dense(grad);
  TORCH_CHECK(of_y.sizes() == IntArrayRef({args.batch, args.sources, args.frames, args.bins(), 2}) &&
                  saved.is_contiguous() && saved.numel() == call.rows * call.unit_words() && weights.is_contiguous() &&
                  weights.numel() == call.rows * 2 * args.count + call.panel,
              "band_masks: the gradient ", grad.sizes(), " or what was kept ", saved.sizes(), ", ", weights.sizes(),
              " does not fit x ", x.sizes());
  const auto like = [&](const Tensor& t) {
    return at::empty(frozen ? IntArrayRef({0}) : t.sizes(), of_y.options());
  };
  auto of_x = result(x.sizes()), of_features = like(features);
  auto of_norm = like(norm), of_inner = like(inner), of_weigh = like(weigh), of_outer = like(outer), of_bias = like(bias);
  Gradients all = {of_x, of_features, of_norm, of_inner, of_weigh, of_outer, of_bias};
  of_norm.zero_();
  if (call.rows == 0) {
    for (auto* t : {&of_features, &of_inner, &of_weigh, &of_outer, &of_bias}) t->zero_();
    return all;
  }
  call.pack_backward();
  std::vector<int64_t> sums_at = {0};
  args.parts = kParts;
  for (int64_t b = 0; b < args.bands; ++b)
    sums_at.push_back(sums_at.back() + args.parts * MaskSums(args, b, call.lanes).size);
  auto sums = result({sums_at.back()});
  args.frozen = frozen;
  args.sums = sums.mutable_data_ptr<float>(), args.sums_at = sums_at.data();
  args.grad = of_y.const_data_ptr<float>();
  args.saved = const_cast<char*>(reinterpret_cast<const char*>(saved.const_data_ptr<float>()));
  args.weights = const_cast<float*>(weights.const_data_ptr<float>());
  args.grad_x = of_x.mutable_data_ptr<float>(), args.grad_features = of_features.mutable_data_ptr<float>();
  run_blocks(kernels().band_masks_backward[int(call.precision)], args);
  if (frozen) return all;

  at::parallel_for(0, args.bands, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const MaskSums place(args, b, call.lanes);
      float* const sum = args.sums + sums_at[b];
      for (int64_t part = 1; part < args.parts; ++part)
        for (int64_t i = 0; i < place.size; ++i) sum[i] += sum[part * place.size + i];
      const int64_t hidden = call.hidden, count = 2 * args.count, width = 2 * args.width(b);
      float* const inner_to = of_inner.mutable_data_ptr<float>() + b * args.dim * 2 * hidden;
      float* const weigh_to = of_weigh.mutable_data_ptr<float>() + b * hidden * count;
      float* const outer_to = of_outer.mutable_data_ptr<float>() + 2 * call.edges[b] * hidden;
      for (int64_t c = 0; c < args.dim; ++c)
        for (int64_t u = 0; u < args.units; ++u)
          if (call.source(u) >= 0) inner_to[c * 2 * hidden + call.source(u)] = sum[c * args.units + u];
      for (int64_t row = 0; row < width + count; ++row) {
        const auto to = call.head(row, args.width(b));
        const float* from = sum + place.heads + row * (args.units / 2);
        float* const column = (to.in_outer ? outer_to : weigh_to) + to.column;
        for (int64_t h = 0; h < hidden; ++h) column[h * (to.in_outer ? width : count)] = from[h];
      }
      for (int64_t c = 0; c < place.norm - place.bias; ++c)
        if (call.bin(c) < width)
          of_bias.mutable_data_ptr<float>()[2 * call.edges[b] + call.bin(c)] = sum[place.bias + c];
    }
  });
  for (int64_t b = 0; b < args.bands; ++b)
    for (int64_t c = 0; c < args.dim; ++c)
      of_norm.mutable_data_ptr<float>()[c] += args.sums[sums_at[b] + MaskSums(args, b, call.lanes).norm + c];
  return all;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def(
      "_band_masks_forward(Tensor x, Tensor features, Tensor norm, Tensor inner, Tensor weigh, Tensor outer, "
      "Tensor bias, int[] bands, float eps, str precision) -> (Tensor, Tensor, Tensor)",
      &forward);
  m.def(
      "_band_masks_backward(Tensor grad, Tensor saved, Tensor weights, Tensor x, Tensor features, Tensor norm, "
      "Tensor inner, Tensor weigh, Tensor outer, Tensor bias, int[] bands, float eps, str precision, bool frozen) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      &backward);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("band_masks", &band_masks); }

}  // namespace ussfast
