#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "pack.h"
#include "packed.h"
#include "shared.h"

namespace ussfast {
namespace {

using at::Tensor;

void check(const Tensor& norm_weight, const Tensor& conv_weight, const Tensor& conv_bias, const Tensor& deconv_weight,
           int64_t outputs, int64_t groups) {
  const int64_t hidden = deconv_weight.size(0), channels = deconv_weight.size(1), kernel = deconv_weight.size(2);
  TORCH_CHECK(conv_weight.sizes() == at::IntArrayRef({2 * hidden, channels, kernel}) &&
                  norm_weight.numel() == channels && conv_bias.numel() == 2 * hidden &&
                  outputs == channels && groups > 0 && channels % groups == 0,
              "locoformer_ffn: weights do not fit together: conv ", conv_weight.sizes(), ", deconv ",
              deconv_weight.sizes());
}

void check_input(const char* op, const Tensor& x, int64_t axis, const Tensor& deconv_weight, int64_t stride) {
  TORCH_CHECK(x.dim() == 4 && (axis == 1 || axis == 2) && deconv_weight.dim() == 3 && x.size(3) == deconv_weight.size(1) &&
                  stride > 0 && stride <= deconv_weight.size(2),
              op, ": x ", x.sizes(), ", axis ", axis, ", deconv ", deconv_weight.sizes());
}

Tensor pack(const Tensor& norm_weight, const Tensor& conv_weight, const Tensor& conv_bias, const Tensor& deconv_weight,
            const Tensor& deconv_bias, int64_t groups, c10::string_view precision_name) {
  check(norm_weight, conv_weight, conv_bias, deconv_weight, deconv_bias.numel(), groups);
  const auto precision = precision_of(precision_name);
  const int64_t hidden = deconv_weight.size(0), channels = deconv_weight.size(1), kernel = deconv_weight.size(2);
  const PackedFfn p(hidden, channels, kernel, precision);
  auto blob = at::zeros({p.layout.size()}, norm_weight.options().dtype(at::kByte));
  char* base = reinterpret_cast<char*>(blob.mutable_data_ptr<uint8_t>());
  const auto floats = [&](int64_t at) { return reinterpret_cast<float*>(base + at); };
  const auto ints = [&](int64_t at) { return reinterpret_cast<int32_t*>(base + at); };

  const auto norm = dense(norm_weight), conv = dense(conv_weight), deconv = dense(deconv_weight);
  const auto bias = dense(conv_bias), bias2 = dense(deconv_bias);
  const float *gamma = norm.const_data_ptr<float>(), *w = conv.const_data_ptr<float>();
  const float *b = bias.const_data_ptr<float>(), *v = deconv.const_data_ptr<float>();
  const bool int8 = precision == Precision::int8;
  // Unit of the quantised activations: a normalised value is at most the root of its group's width.
  const float unit = std::sqrt(float(channels / groups)) / 127.0f;
  const int64_t width = 2 * p.lanes;
  at::parallel_for(0, p.hidden_width / p.lanes, 1, [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel) {
      const auto source = [&](int64_t n) {  // row of the convolution in column n, or -1
        const int64_t unit_index = panel * p.lanes + n % p.lanes;
        return unit_index < hidden ? n / p.lanes * hidden + unit_index : -1;
      };
      const auto get = [&](int64_t k, int64_t n) {
        const int64_t row = source(n), tap = k / channels, c = k % channels;
        // In int8 the norm's weight is part of the convolution, so that its input has a known range.
        return row < 0 ? 0.0f : w[(row * channels + c) * kernel + tap] * (int8 ? gamma[c] : 1.0f);
      };
      float *scales = floats(p.conv_scale) + panel * width, *biases = floats(p.conv_bias) + panel * width;
      std::vector<int32_t> zeros(width);
      pack_panel(precision, kernel * channels, p.in_words, width, get, base + p.conv + panel * p.in_words * width * 4,
                 scales, zeros.data());
      for (int64_t n = 0; n < width; ++n) {
        scales[n] *= unit;
        if (source(n) >= 0) biases[n] = b[source(n)] + (int8 ? zeros[n] * scales[n] : 0.0f);
      }
    }
  });
  const int64_t panels = p.out_width / width;
  at::parallel_for(0, kernel * panels, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const auto get = [&](int64_t k, int64_t n) {
        const int64_t c = i % panels * width + n;
        return k < hidden && c < channels ? v[(k * channels + c) * kernel + i / panels] : 0.0f;
      };
      pack_panel(precision, p.hidden_width, p.hidden_words, width, get,
                 base + p.deconv + i * p.hidden_words * width * 4, floats(p.deconv_scale) + i * width,
                 ints(p.deconv_zero) + i * width);
    }
  });
  std::copy_n(bias2.const_data_ptr<float>(), channels, floats(p.deconv_bias));
  return blob;
}

Tensor locoformer_ffn(const Tensor& x, const Tensor& norm_weight, const Tensor& conv_weight, const Tensor& conv_bias,
                      const Tensor& deconv_weight, const Tensor& deconv_bias, const std::optional<Tensor>& packed,
                      int64_t axis, int64_t groups, double eps, int64_t stride, c10::string_view precision_name) {
  const auto precision = precision_of(precision_name);
  if (x.scalar_type() == at::kDouble)
    return reference("ussfast::locoformer_ffn", &locoformer_ffn, x, norm_weight, conv_weight, conv_bias, deconv_weight,
                     deconv_bias, packed, axis, groups, eps, stride, precision_name);
  check(norm_weight, conv_weight, conv_bias, deconv_weight, deconv_bias.numel(), groups);
  check_input("locoformer_ffn", x, axis, deconv_weight, stride);
  const auto input = readable(x);
  auto y = result(x.sizes());
  if (y.numel() == 0) return y.to(x.scalar_type());
  const PackedFfn p(deconv_weight.size(0), x.size(3), deconv_weight.size(2), precision);
  const auto blob = packed_or(packed, p.layout.size(), [&] {
    return pack(norm_weight, conv_weight, conv_bias, deconv_weight, deconv_bias, groups, precision_name);
  });
  const char* base = reinterpret_cast<const char*>(blob.const_data_ptr<uint8_t>());
  // In int8 the packed convolution holds the norm's weight.
  const auto gamma = precision == Precision::int8 ? at::ones({x.size(3)}, input.options()) : dense(norm_weight);
  FfnArgs args = {
      .x = input.const_data_ptr<float>(),
      .y = y.mutable_data_ptr<float>(),
      .at = sequences(input, axis),
      .norm = {gamma.const_data_ptr<float>(), groups, float(eps)},
      .hidden = deconv_weight.size(0),
      .kernel = deconv_weight.size(2),
      .stride = stride,
  };
  p.point(args, base);
  run_blocks(kernels().ffn[int(precision)], args);
  return y.to(x.scalar_type());
}

// Weights as FfnGradient reads them. Both directions of the convolution have units in the same order, in panels of values
// and gates as in `pack`, but an even number of panels.
std::vector<char> pack_gradient(const Tensor& conv, const Tensor& conv_bias, const Tensor& deconv, Precision precision,
                                FfnArgs& args) {
  const int64_t hidden = deconv.size(0), channels = deconv.size(1), kernel = deconv.size(2), taps = kernel * channels;
  const int64_t lanes = kernels().lanes, panel = 2 * lanes, group = group_of(precision);
  const int64_t width = round_up(channels, panel), padded = round_up(hidden, panel), units = 2 * padded;
  const int64_t in_words = (taps + group - 1) / group, unit_words = units / group;
  Layout layout;
  const int64_t ahead = layout.add<int32_t>(units * in_words), biases = layout.add<float>(units);
  const int64_t back = layout.add<int32_t>(padded * in_words), last = layout.add<int32_t>(kernel * width * unit_words);
  std::vector<char> packed(layout.size());
  char* const base = packed.data();
  const float *w = conv.const_data_ptr<float>(), *v = deconv.const_data_ptr<float>();

  std::vector<int64_t> rows(units), some(padded), outputs(width);
  float* const bias = reinterpret_cast<float*>(base + biases);
  for (int64_t u = 0; u < units; ++u) {
    const int64_t unit = u / panel * lanes + u % lanes;
    rows[u] = unit >= hidden ? -1 : u % panel < lanes ? unit : hidden + unit;
    if (rows[u] >= 0) bias[u] = conv_bias.const_data_ptr<float>()[rows[u]];
  }
  for (int64_t i = 0; i < padded; ++i) some[i] = i < hidden ? i : -1;
  for (int64_t c = 0; c < width; ++c) outputs[c] = c < channels ? c : -1;
  const auto tap_of = [&](int64_t k) { return k % channels * kernel + k / channels; };  // taps are slowest
  pack_lines(precision, taps, in_words, panel, rows, [&](int64_t k) { return Line{w + tap_of(k), taps}; }, base + ahead);
  pack_lines(precision, taps, in_words, panel, some, [&](int64_t k) { return Line{v + tap_of(k), taps}; }, base + back);
  for (int64_t tap = 0; tap < kernel; ++tap)
    pack_lines(precision, units, unit_words, panel, outputs,
               [&](int64_t u) { return Line{rows[u] < 0 ? nullptr : w + rows[u] * taps + tap, kernel}; },
               base + last + tap * width * unit_words * 4);
  args.conv = base + ahead, args.conv_bias = bias, args.deconv_back = base + back, args.conv_back = base + last;
  return packed;
}

// The gradient of x alone, from that of the result.
Tensor gradient(const Tensor& grad, const Tensor& x, const Tensor& norm_weight, const Tensor& conv_weight,
                const Tensor& conv_bias, const Tensor& deconv_weight, int64_t axis, int64_t groups, double eps,
                int64_t stride, c10::string_view precision_name) {
  const auto precision = precision_of(precision_name);
  TORCH_CHECK(precision != Precision::int8, "_locoformer_ffn_gradient: precision must be float32 or bfloat16");
  check_input("_locoformer_ffn_gradient", x, axis, deconv_weight, stride);
  check(norm_weight, conv_weight, conv_bias, deconv_weight, x.size(3), groups);
  TORCH_CHECK(grad.sizes() == x.sizes(), "_locoformer_ffn_gradient: the gradient ", grad.sizes(), " does not fit x ",
              x.sizes());
  auto of_x = result(x.sizes());
  if (of_x.numel() == 0) return of_x;
  const auto input = readable(x), of_y = dense(grad), gamma = dense(norm_weight), conv = dense(conv_weight);
  const auto bias = dense(conv_bias), deconv = dense(deconv_weight);
  FfnArgs args = {
      .x = input.const_data_ptr<float>(),
      .at = sequences(input, axis),
      .norm = {gamma.const_data_ptr<float>(), groups, float(eps)},
      .hidden = deconv.size(0),
      .kernel = deconv.size(2),
      .stride = stride,
      .grad = of_y.const_data_ptr<float>(),
      .grad_x = of_x.mutable_data_ptr<float>(),
  };
  const auto packed = pack_gradient(conv, bias, deconv, precision, args);
  run_blocks(kernels().ffn_gradient[int(precision)], args);
  return of_x;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def(
      "_locoformer_ffn_gradient(Tensor grad, Tensor x, Tensor norm_weight, Tensor conv_weight, Tensor conv_bias, "
      "Tensor deconv_weight, int axis, int groups, float eps, int stride, str precision) -> Tensor",
      &gradient);
  m.def(
      "_pack_locoformer_ffn(Tensor norm_weight, Tensor conv_weight, Tensor conv_bias, Tensor deconv_weight, "
      "Tensor deconv_bias, int groups, str precision) -> Tensor",
      &pack);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("locoformer_ffn", &locoformer_ffn); }

}  // namespace ussfast
