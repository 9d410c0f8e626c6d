// Arguments of the kernels that advance the causal model by one frame, see trunk_step.cpp. Plain C++.
//
// State is changed in place; it may be that of more items, of which those of this step are at `places`. A pair is an
// item with one of its prompts; item i has the pairs first[i] to first[i + 1]. Columns of packed weights, biases and the
// norms' weights are padded to whole panels by zeros.
#pragma once

#include <cstdint>

namespace ussfast {

// x + outer(value * SiLU(gate)) of three neighbours. Hidden units lie in panels: the values of as many units as a vector
// has lanes, then their gates.
struct TrunkFfn {
  const float* norm;
  const char* inner;
  const float* inner_bias;
  const char* outer;
  const float* outer_bias;
};

struct TrunkBlock {
  const float* attention_norm;
  const char *qkv, *out;  // queries in units of log2
  TrunkFfn bands;
  const float* recurrence_norm;
  const char* inner;
  const float* inner_bias;
  const char* outer;
  TrunkFfn time;
  float *memory, *past;  // state: [items, bands, dim], [items, 2, bands, dim]
};

struct TrunkArgs {
  int64_t items, channels, sources, pairs;
  const int64_t *places, *first;                  // [items], [items + 1]
  int64_t hop, bins, bands, dim, hidden, heads, features, blocks;  // hidden: a multiple of the lanes
  const int64_t* edges;                           // first bin of every band, then the number of bins
  float eps, release;

  // Samples. scale: one over the sum of squared windows. late: [pairs, channels, 2 * hop], from the inverse transform.
  const float *audio, *window, *scale;            // [items * channels, hop], [2 * hop], [hop]
  float *context, *overlap;                       // state: [rows, hop], [rows, sources, hop]
  float* frame;                                   // [items * channels, 2 * hop]
  const float* late;
  float* out;                                     // [items * channels, sources, hop]

  // Spectra: of items * channels rows, and of pairs * channels.
  const float* spec;
  float* estimate;

  // From bins to bands. Rows of `lanes` floats have bins as their columns and room for whole panels.
  float *level, *last;                            // state: [items], [items, 2, bins, 3]
  const float *conv, *conv_bias;                  // [features, 3 neighbours, 3 frames, 3 channels]
  const char* encoder;                            // panels of every band
  const float* band_rows;
  float* planar;                                  // [items, features, lanes]
  char* interleaved;                              // [items, bins, features], as the products take them
  float* x;                                       // [items, bands, dim]

  // Trunk and head.
  const TrunkBlock* block;
  const float* trunk_norm;
  TrunkFfn head;
  const float *scales, *shifts;                   // [1 or as the state, prompts, bands, dim]
  int64_t modulation;                             // floats from one item's scales to the next
  const float* decoder_norm;
  char* headed;                                   // [bands, pairs, dim], as the products take them

  // From bands to bins. decoder_out: per band, columns for the real parts of its bins, the imaginary ones, and the
  // features' weights for both.
  const char *decoder_inner, *decoder_out;
  const float* mask_bias;                         // [2, lanes]
  float* masks;                                   // [pairs, 2, lanes]
};

}  // namespace ussfast
