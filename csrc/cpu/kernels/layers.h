// Arguments that several kernels share. Plain C++, shared by kernels and ops.
#pragma once

#include <cstdint>

namespace ussfast {

// Sequences along one axis of a [batch, frames, bands, channels] activation; strides in elements, channels adjacent.
struct Sequences {
  int64_t outer, inner, length, channels;
  int64_t in_outer, in_inner, in_step;
  int64_t out_outer, out_inner, out_step;

  int64_t count() const { return outer * inner; }
  int64_t in(int64_t s) const { return s / inner * in_outer + s % inner * in_inner; }
  int64_t out(int64_t s) const { return s / inner * out_outer + s % inner * out_inner; }
};

// RMSNorm over `groups` groups of channels; eps is added outside the root.
struct Norm {
  const float* weight;
  int64_t groups;
  float eps;
};

struct FfnArgs {
  const float* x;
  float* y;
  Sequences at;
  Norm norm;
  int64_t hidden, kernel, stride;
  // Packed weights, see locoformer_ffn.cpp.
  const char *conv, *deconv;
  const float *conv_bias, *conv_scale, *deconv_bias, *deconv_scale;
  const int32_t* deconv_zero;
  // Of the backward pass, whose conv and conv_bias have whole panels of hidden units: see FfnGradient.
  const char *conv_back, *deconv_back;
  const float* grad;  // of y, contiguous
  float* grad_x;

  // Hidden rows per sequence.
  int64_t steps() const { return (at.length + kernel - stride + stride - 1) / stride; }
};

// RMSNorm -> convolution over three neighbours -> SwiGLU -> matrix -> residual, see conv_ffn.h. Hidden units lie in
// panels: the values of as many units as a vector has lanes, then their gates; `units` counts both, with padding.
struct ConvFfnArgs {
  const float* x;
  const float* past;  // null: zeros
  float* y;           // of the forward pass
  Sequences at;       // in: x; out: y, grad and grad_x
  int64_t past_outer, past_inner, past_step, grad_past_outer;
  const float* norm;
  float eps;
  int64_t units;
  bool causal;
  // Packed weights, see conv_ffn.cpp; the last two are those of the backward pass.
  const char *inner, *outer, *inner_back, *outer_back;
  const float *inner_bias, *outer_bias;
  char* saved;  // pre-activations [rows, units] in the precision of the products; may be null in the forward pass

  const float* grad;  // of y, contiguous
  float *grad_x, *grad_past;  // the latter may be null
  float* sums;  // gradients of the weights, a ConvFfnSums for each of `chunks` runs of blocks
  int64_t chunks;
  bool frozen;  // no gradients of the weights are wanted
};

// Where the gradients of the weights lie, in floats: inner [units][3 taps][out_width], outer [channels and a few
// more][units / 2], then both biases and the norm.
struct ConvFfnSums {
  int64_t outer, inner_bias, outer_bias, norm, size;

  ConvFfnSums(int64_t channels, int64_t units, int64_t panel) {
    const int64_t width = (channels + panel - 1) / panel * panel;
    outer = units * 3 * width;
    inner_bias = outer + (channels + 4) * (units / 2);
    outer_bias = inner_bias + units;
    norm = outer_bias + width;
    size = (norm + width + 15) / 16 * 16;
  }
};

// x + outer(mix(inner(RMSNorm(x)))), see residual.h. inner gives three times `mixed` columns, which is the channels of all
// heads, each padded to whole panels. Strides of x in elements, channels adjacent; y, grad and grad_x are contiguous.
struct ResidualArgs {
  const float* x;
  float* y;  // of the forward pass
  int64_t batch, frames, bands, channels;
  int64_t x_item, x_frame, x_band;
  int64_t heads, head_width, mixed;
  const float* norm;
  float eps;
  // Packed weights, see residual.h of the ops; the last two are those of the backward pass. inner_bias may be null.
  const char *inner, *outer, *inner_back, *outer_back;
  const float* inner_bias;

  const float* grad;  // of y
  float* grad_x;
  float* sums;  // gradients of the weights, a ResidualSums for each of `chunks` runs of blocks
  int64_t chunks;
};

// Where the gradients of the weights lie, in floats: inner [3 mixed][width], outer [channels and a few more][mixed],
// then the bias of inner and the norm.
struct ResidualSums {
  int64_t outer, inner_bias, norm, size;

  ResidualSums(int64_t channels, int64_t mixed, int64_t panel) {
    const int64_t width = (channels + panel - 1) / panel * panel;
    outer = 3 * mixed * width;
    inner_bias = outer + (channels + 4) * mixed;
    norm = inner_bias + 3 * mixed;
    size = (norm + width + 15) / 16 * 16;
  }
};

// The recurrence: columns of inner are z, g and gate, see gated_recurrence.h. A block has so many bands; between its
// patches of so many frames the state is kept.
constexpr int64_t kRecurrenceBands = 8, kRecurrenceFrames = 24, kRecurrenceRows = kRecurrenceBands * kRecurrenceFrames;
struct GatedRecurrenceArgs : ResidualArgs {
  const float* state;  // [batch, bands, channels] before x
  float* last;         // after it
  float* states;       // before every patch, [batch, groups, patches, kRecurrenceBands, mixed]; may be null
  const float* grad_last;  // null: zeros
  float* grad_state;

  int64_t groups() const { return (bands + kRecurrenceBands - 1) / kRecurrenceBands; }
  int64_t patches() const { return (frames + kRecurrenceFrames - 1) / kRecurrenceFrames; }
};

// Attention among the bands of each frame: columns of inner are q, k and v, see band_attention.h.
struct BandAttentionArgs : ResidualArgs {};

// Tiles of a product (gemm.h) may read so many rows of A beyond its last, and write as many of the result.
constexpr int64_t kSpareRows = 3;

}  // namespace ussfast
