// Arguments of the kernels between bins and bands of the causal model. Plain C++, shared by kernels and ops.
#pragma once

#include <cstdint>

namespace ussfast {

// RMSNorm -> gated layer -> masks and weights of features, each band with matrices of its own, see band_masks.h. Hidden
// units lie in panels: the values of as many units as a vector has lanes, then their gates; `units` counts both, with
// padding. Tensors are contiguous.
struct BandMasksArgs {
  const float *x, *features, *norm;
  float eps;
  float* y;  // of the forward pass
  int64_t batch, sources, frames, bands, dim, units, count;  // count: of features
  const int64_t* edges;  // first bin of every band, then the number of bins
  // Packed weights of every band, those of the backward pass in the backward pass: see MaskPanels.
  const char* packed;
  const int64_t* packed_at;  // in bytes
  // Kept from the forward pass, where they may be null. Rows are [bands, batch, frames, sources]; pre-activations [row,
  // units] in the precision of the products, and weights of the features [row, 2, count].
  char* saved;
  float* weights;

  const float* grad;  // of y
  float *grad_x, *grad_features;
  float* sums;  // gradients of the weights: MaskSums of every band, each `parts` times
  const int64_t* sums_at;  // in floats, of the first
  int64_t parts;
  bool frozen;  // only grad_x is wanted: nothing depends on the weights and features

  int64_t bins() const { return edges[bands]; }
  int64_t width(int64_t band) const { return edges[band + 1] - edges[band]; }
};

// Where the packed weights of a band lie, in units of 4 bytes. group: elements of a product per 4 bytes.
// Forward: panels of `inner`, of `weigh`, of `outer` (real parts of as many bins as a vector has lanes, then their
// imaginary parts) and the bias like those. Backward: panels of hidden units, whose rows are real parts of the bins, real
// weights of the features and the same for imaginary parts; then panels of channels.
struct MaskPanels {
  int64_t dim_words, hidden_words, head_words, unit_words;  // rows of panels
  int64_t weigh_columns, bin_columns, channel_columns;      // with padding
  int64_t weigh, outer, bias, size;                         // inner is at 0
  int64_t inner_back, size_back;                            // the heads are at 0

  MaskPanels(const BandMasksArgs& a, int64_t band, int64_t lanes, int64_t group) {
    const auto up = [](int64_t n, int64_t to) { return (n + to - 1) / to * to; };
    const int64_t panel = 2 * lanes, hidden = a.units / 2, width = a.width(band);
    dim_words = up(a.dim, group) / group, hidden_words = hidden / group;
    head_words = up(2 * (width + a.count), group) / group, unit_words = a.units / group;
    weigh_columns = up(2 * a.count, panel), bin_columns = 2 * up(width, lanes), channel_columns = up(a.dim, panel);
    weigh = a.units * dim_words;
    outer = weigh + weigh_columns * hidden_words;
    bias = outer + bin_columns * hidden_words;
    size = up(bias + bin_columns, 16);
    inner_back = hidden * head_words;
    size_back = up(inner_back + channel_columns * unit_words, 16);
  }
};

// Where the gradients of a band's weights lie, in floats: inner [dim and a few more][units], heads [as rows of the packed
// weights, and a few more][hidden], then the bias as in the packed weights and the norm.
struct MaskSums {
  int64_t heads, bias, norm, size;

  MaskSums(const BandMasksArgs& a, int64_t band, int64_t lanes) {
    const int64_t width = a.width(band);
    heads = (a.dim + 4) * a.units;
    bias = heads + (2 * (width + a.count) + 4) * (a.units / 2);
    norm = bias + (width + lanes - 1) / lanes * 2 * lanes;
    size = (norm + a.dim + 2 * lanes + 15) / 16 * 16;
  }
};

// A matrix per band from the features of its bins to one token, see band_tokens.h. Tensors are contiguous.
struct BandTokensArgs {
  const float* features;  // [rows, bins, count]
  float* y;               // [rows, bands, dim]
  int64_t rows, bands, count, dim;
  const int64_t* edges;  // first bin of every band, then the number of bins
  // Packed matrices of every band: panels of channels, or of features in the backward pass.
  const char* packed;
  const int64_t* packed_at;  // in bytes

  const float* grad;  // of y
  float* grad_features;
  float* sums;             // gradients of every band's matrix [depth and a few more][dim in whole panels], `parts` times
  const int64_t* sums_at;  // in floats, of the first
  int64_t parts;

  int64_t depth(int64_t band) const { return (edges[band + 1] - edges[band]) * count; }
  int64_t deepest() const {
    int64_t most = 0;
    for (int64_t band = 0; band < bands; ++band) most = depth(band) > most ? depth(band) : most;
    return most;
  }
};

}  // namespace ussfast
