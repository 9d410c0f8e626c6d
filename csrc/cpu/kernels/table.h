// What the compiled instruction sets offer: one table of kernels each. Plain C++, shared by kernels and ops.
#pragma once

#include <cstdint>

#include "ends.h"
#include "layers.h"
#include "trunk.h"

namespace ussfast {

// Values of the `precision` argument of the ops.
enum class Precision : int { float32, bfloat16, int8 };
constexpr int kPrecisions = 3;

struct AttentionArgs {
  const float* x;
  float* y;
  Sequences at;
  Norm norm;
  int64_t heads, head_width;
  // Packed weights and rotation tables, see locoformer_attention.cpp. qkv is float, or int8 with a scale and the value
  // that cancels the activations' zero per row.
  const char* qkv;
  const float* qkv_scale;  // null: qkv is float
  const int32_t* qkv_zero;
  const float *out, *cosine, *sine;
  // For the backward pass, [sequences, kept_rows(), positions]: what attention gives, transposed, then per head the largest
  // score of every query, then per head 1 / sum of its weights. Null: not wanted.
  float* kept;

  int64_t kept_rows() const { return heads * (head_width + 2); }
  // Positions per row of transposed scratch: a panel more than needed at most, and an odd number of half panels, so
  // that rows do not all fall into the same few sets of the cache.
  int64_t padded(int64_t panel) const {
    const int64_t full = (at.length + panel - 1) / panel * panel;
    return full + panel / 2;
  }
};

// The gradient of x alone: weights stay as they are. x and kept are those of the forward pass, grad and grad_x contiguous.
struct AttentionGradArgs : AttentionArgs {
  const float* grad;  // of y
  float* grad_x;
  // See pack_backward in locoformer_attention.cpp.
  const float *qkv_back, *out_back;
};

// A [batch, positions, heads, width] tensor with adjacent channels; strides in elements.
struct HeadRows {
  const float* data;
  int64_t batch, row, head;

  const float* at(int64_t item, int64_t h) const { return data + item * batch + h * head; }
};

struct CrossAttentionArgs {
  HeadRows q, k, v;
  float* y;  // [batch, queries, heads, width]
  int64_t batch, queries, keys, heads, width;
  float scale;  // of queries: log2(e) / sqrt(width)
  const float* bias;  // packed, see biased_cross_attention.cpp; null: none
  float* kept;  // for the backward pass: largest scores, 1 / sums of weights, [batch, heads, 2, queries]; null: not wanted
};

// Gradients of queries, keys and values; all but q, k and v are contiguous.
struct CrossAttentionGradArgs : CrossAttentionArgs {
  const float *mixed, *grad;  // the result, and its gradient
  float *grad_q, *grad_k, *grad_v;  // grad_q: [batch, ...] also for queries that the batch shares
};

// Frames [batch, frames, channels] whose channels are cut into bands, each normalised over all frames and its channels
// together. Strides in elements, channels adjacent.
struct BandFrames {
  const float* x;
  int64_t batch, frames, in_batch, in_frame, bands;
  const int64_t* edges;        // first channel of every band, then the number of channels
  const float *mean, *scale;   // of the norm, [batch, bands]
  const float *weight, *bias;  // of the norm, [channels]

  int64_t channels() const { return edges[bands]; }
};

struct BandSplitArgs {
  BandFrames in;
  float* y;
  int64_t dim, groups;
  const int64_t* group_edges;  // first band of every group of bands that is computed together, then the number of bands
  // Packed weights, see band_split.cpp.
  const float *weight, *bias;
};

struct BandMergeArgs {
  BandFrames in;
  float* y;
  int64_t dim, hidden, sources;
  const int64_t* bins;     // first bin of every band, then the number of bins
  const int64_t* columns;  // first packed column of every band in the last layer
  // Packed weights, see band_merge.cpp.
  const float *weight1, *bias1, *weight2, *bias2, *weight3, *bias3;
};

// Output sample i of a channel is the sum over j of x[start + time / up + j] times the weights at (time % up) / up of the
// way through the table, where time = phase + i * down.
struct ResampleArgs {
  const float* x;
  float* y;            // [channels, count]
  const float* table;  // [rows + 1, taps]; between rows weights are interpolated. taps: a multiple of 16
  int64_t channels, count, channel;  // channel: from one to the next in x
  int64_t rows, taps, start, phase, up, down;
};

// A kernel cut into independent blocks.
template <class Args>
struct Blocks {
  int64_t (*blocks)(const Args&);
  int64_t (*scratch)(const Args&);  // bytes that one thread needs
  void (*run)(const Args&, int64_t first, int64_t last, char* scratch);
};

struct Kernels {
  int lanes;  // a packed panel has twice as many columns
  void (*rms_row_f32)(const float* x, const float* w, float* y, int64_t groups, int64_t width, float eps);
  void (*rms_row_f64)(const double* x, const double* w, double* y, int64_t groups, int64_t width, double eps);
  // Gradient of a row from that of its result, plus `add` unless that is null.
  void (*rms_row_gradient)(const float* x, const float* w, const float* grad, const float* add, float* out, int64_t groups,
                           int64_t width, float eps);

  // Around the inverse STFT, see spectrum.h.
  void (*multiply_pairs)(const float* a, const float* b, float* out, int64_t count);
  void (*overlap_add)(const float* frame, const float* window, float* out, float* weight, int64_t count);
  void (*divide_by_weight)(const float* weight, float* out, int64_t count, float least);
  // Backwards.
  void (*weigh)(const float* grad, const float* by, const float* window, float* out, int64_t count);
  void (*multiply_conjugate)(const float* a, const float* b, float scale, float* out, int64_t count);
  void (*subtract_mean)(float* x, int64_t parts, int64_t step, int64_t count);

  // Work is cut into independent blocks whose results do not depend on the thread that computes them.
  Blocks<FfnArgs> ffn[kPrecisions], ffn_gradient[2];  // the latter, of the input alone: float32, bfloat16
  Blocks<ConvFfnArgs> conv_ffn[2], conv_ffn_backward[2];  // float32, bfloat16; blocks of the latter are chunks
  Blocks<GatedRecurrenceArgs> gated_recurrence[2], gated_recurrence_backward[2];  // the same
  Blocks<BandAttentionArgs> band_attention[2], band_attention_backward[2];  // the same
  Blocks<BandMasksArgs> band_masks[2], band_masks_backward[2];  // the same
  Blocks<BandTokensArgs> band_tokens[2], band_tokens_backward[2];
  Blocks<AttentionArgs> attention;
  Blocks<AttentionGradArgs> attention_backward;
  Blocks<CrossAttentionArgs> cross_attention;
  Blocks<CrossAttentionGradArgs> cross_attention_backward;

  // Blocks of `rows` frames of one item: per block and band, mean and sum of squared distances from it.
  // scratch: twice as many floats as channels, both times rounded up to whole cache lines.
  void (*band_moments)(const BandFrames&, int64_t rows, double* moments, int64_t first, int64_t last, char* scratch);
  Blocks<BandSplitArgs> band_split;
  Blocks<BandMergeArgs> band_merge;
  Blocks<ResampleArgs> resample;

  // One frame of the causal model, see trunk.h: in this order. Float32, bfloat16.
  Blocks<TrunkArgs> trunk_frame, trunk_features[2], trunk_encode[2], trunk_layers[2], trunk_decode[2], trunk_masks,
      trunk_overlap;
};

}  // namespace ussfast
