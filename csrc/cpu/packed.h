// Where the parts of a layer's packed weights lie.
#pragma once

#include "pack.h"
#include "shared.h"

namespace ussfast {

// Where the parts of the packed weights lie. Hidden units come in panels: the values of `lanes` units, then their
// gates, so that one tile holds both. The transposed convolution has panels of output channels for every tap.
struct PackedFfn {
  PackedFfn(int64_t hidden, int64_t channels, int64_t kernel, Precision precision)
      : lanes(kernels().lanes),
        hidden_width(round_up(hidden, lanes)),
        out_width(round_up(channels, 2 * lanes)),
        in_words(round_up(kernel * channels, group_of(precision)) / group_of(precision)),
        hidden_words(hidden_width / group_of(precision)) {
    conv = layout.add<int32_t>(2 * hidden_width * in_words);
    conv_bias = layout.add<float>(2 * hidden_width);
    conv_scale = layout.add<float>(2 * hidden_width);
    deconv = layout.add<int32_t>(kernel * out_width * hidden_words);
    deconv_bias = layout.add<float>(out_width);
    deconv_scale = layout.add<float>(kernel * out_width);
    deconv_zero = layout.add<int32_t>(kernel * out_width);
  }

  void point(FfnArgs& args, const char* base) const {
    args.conv = base + conv;
    args.deconv = base + deconv;
    args.conv_bias = reinterpret_cast<const float*>(base + conv_bias);
    args.conv_scale = reinterpret_cast<const float*>(base + conv_scale);
    args.deconv_bias = reinterpret_cast<const float*>(base + deconv_bias);
    args.deconv_scale = reinterpret_cast<const float*>(base + deconv_scale);
    args.deconv_zero = reinterpret_cast<const int32_t*>(base + deconv_zero);
  }

  Layout layout;
  int64_t lanes, hidden_width, out_width, in_words, hidden_words;
  int64_t conv, conv_bias, conv_scale, deconv, deconv_bias, deconv_scale, deconv_zero;
};

// Where the parts of the packed weights lie: rows of the qkv projection in their order, with spare rows for tiles that
// reach over the end, and panels of the output projection.
struct PackedAttention {
  PackedAttention(int64_t channels, int64_t width, bool int8)
      : panel(2 * kernels().lanes),
        out_width(round_up(channels, panel)),
        row_bytes(int8 ? round_up(channels, 4) : 4 * channels) {
    qkv = layout.add<char>((3 * width + panel) * row_bytes);
    qkv_scale = layout.add<float>(3 * width + panel);
    qkv_zero = layout.add<int32_t>(3 * width + panel);
    out = layout.add<float>(out_width * width);
  }

  void point(AttentionArgs& args, const char* base, bool int8) const {
    args.qkv = base + qkv;
    args.qkv_scale = int8 ? reinterpret_cast<const float*>(base + qkv_scale) : nullptr;
    args.qkv_zero = reinterpret_cast<const int32_t*>(base + qkv_zero);
    args.out = reinterpret_cast<const float*>(base + out);
  }

  Layout layout;
  int64_t panel, out_width, row_bytes, qkv, qkv_scale, qkv_zero, out;
};

}  // namespace ussfast
