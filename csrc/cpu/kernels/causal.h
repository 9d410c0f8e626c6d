// Arguments of the kernels that advance a causal model by one frame, see causal_step.cpp. Plain C++.
//
// Positions are (item, band), counted through. State is changed in place; it may be that of more items, of which those
// of this step are at `places`. Rows of `lanes` floats have bins as their columns and room for whole panels; rows of
// `wide` floats have in addition a zero before the first bin, or kLanes of them, and zeros behind the last.
#pragma once

#include <cstdint>

#include "layers.h"

namespace ussfast {

// Windowed frames before the transform, and overlapping ones behind it. A block is a row.
struct CausalWaveArgs {
  int64_t rows, channels, hop, sources;
  const int64_t* places;  // of the items, each of so many rows
  const float *audio, *window, *scale;  // [rows, hop], [2 * hop], [hop]: one over the squared windows' sum
  float *context, *overlap;             // state: [rows, hop], [rows, sources, hop]
  float* frame;                         // [rows, 2 * hop]
  const float* late;                    // [rows, sources, 2 * hop], from the inverse transform
  float* out;                           // [rows, sources, hop]
};

// From spectra to bands: a running level and features, then what every bin computes alone, then the bands' attention.
struct CausalFrontArgs {
  int64_t items, channels, bins, bands, inner, heads, frames, dim, bin_hidden, band_hidden, limit;
  float eps;
  const float* spec;                 // [items * channels, bins, 2]
  const int64_t *places, *seen;      // [items]; state, as below
  float *level, *features, *tokens;  // [items], [items, frames - 1, bins, 3], [items, frames - 1, bands, inner]
  // Weights: rows of all inputs and, where there is a bias, the bias behind them; each with kSpareRows more.
  const float *conv, *conv_norm, *kv_norm, *kv, *bin_norm, *bin_inner, *bin_outer;
  const float *queries, *edges, *slope, *out, *band_norm, *band_inner, *band_outer;
  const float *band_conv, *band_bias, *dim_norm;  // the convolution as panels
  float* planar;                                  // [items, frames * 3, wide]
  float *kv_lanes, *own;                          // [items, 2 * inner + kSpareRows, lanes], [items, inner, lanes]
  float* y;                                       // [items, bands, dim]
};

// One layer of the time path as a step: `ffn` has the stride of its kernel and sequences of length 1. inputs, hidden:
// state, [positions, kernel - 1, channels] and [positions, kernel - 1, hidden], oldest first.
struct CausalFfn {
  FfnArgs ffn;
  float *inputs, *hidden;
};

// The whole time path of a block, position by position.
struct CausalTimeArgs {
  int64_t positions, bands, heads, head_width, window, prompts;
  bool shared;  // whether all items have the same prefix
  const float* x;
  float* y;  // [positions, channels] both
  Norm norm;
  bool has_before;
  CausalFfn before, after;
  const float *qkv, *out;                       // panels; queries in units of log2
  const float *prefix_keys, *prefix_values;     // [1 or as the state, bands, width, prompts], [..., prompts, width]
  const int64_t *places, *first;                // [items]; [items + 1], prompts that the items before have
  const int64_t* seen;                          // state: [items]
  float *keys, *values;                         // state: [positions, width, window], [positions, window, width]
  float* rows;                                  // for prompts: [positions, channels], in front of the attention
};

// From bands to masked spectra. A pair is an item with one of its prompts; item i has the pairs first[i] to first[i + 1].
struct CausalBackArgs {
  int64_t items, channels, sources, bins, bands, dim, inner, heads, ahead;
  const int64_t *places, *first;   // [items], [items + 1]
  Norm norm;
  const float *x, *scale, *shift;  // [items, bands, dim]; [1 or as the state, prompts, bands, dim]
  int64_t modulation;              // floats from one item's scale to the next
  float* prompted;                 // [pairs + spare, bands, dim], into the extraction
  const float* extracted;          // the same, out of it
  const float *value, *value_bias, *weights, *out, *out_bias;  // panels; [inner]; panels; [6, inner]; [2]
  float* values;                   // per item [bands, heads, prompts, width], sources' room
  const float* own;                // as in the front
  float* parts;                    // [items, sources, 6, wide]
  const float* spec;               // [items * channels, bins, 2]
  float* waiting;                  // state: [items * channels, ahead, bins, 2]
  float* estimate;                 // [items * channels, sources, bins, 2]
};

}  // namespace ussfast
