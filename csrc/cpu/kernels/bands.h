// Encoder and decoder of bands: norm per band over time, then matrix products with the weights of that band.
//
// The statistics take one pass of their own. Then a block is a run of frames of one band, or of a group of narrow
// ones: what it computes in between stays in the cache. Bands differ in width, so frames are the outer order of
// blocks: any share of them has bands of all kinds.
#pragma once

#include <utility>

#include "gemm.h"
#include "table.h"

namespace ussfast {
namespace {

// sums[c] = sum over rows of term(row's channel c .. c + kLanes - 1, c).
template <class Term>
USSFAST_INLINE void sum_rows(const float* x, int64_t row, int64_t rows, int64_t channels, float* sums, Term&& term) {
  constexpr int kWide = 4;
  int64_t c = 0;
  for (; c + kWide * kLanes <= channels; c += kWide * kLanes) {
    F sum[kWide] = {};
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) sum[v] += term(load(x + r * row + c + v * kLanes), c + v * kLanes);
    for (int v = 0; v < kWide; ++v) store(sums + c + v * kLanes, sum[v]);
  }
  for (; c < channels; c += kLanes) {
    F sum = {};
    for (int64_t r = 0; r < rows; ++r) sum += term(load_some(x + r * row + c, channels - c), c);
    store(sums + c, sum);
  }
}

USSFAST_INLINE double sum_of(const float* from, int64_t n) {
  double sum[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int v = 0; v < 4; ++v) sum[v] += from[i + v];
  for (; i < n; ++i) sum[0] += from[i];
  return sum[0] + sum[1] + (sum[2] + sum[3]);
}

// Sums run down the channels, so that bands narrower than a vector cost no more than wide ones. A block has few enough
// rows for float sums, and the second read of its rows comes from the cache; bands and blocks are added in double.
void band_moments(const BandFrames& in, int64_t rows, double* moments, int64_t first, int64_t last, char* scratch) {
  const int64_t channels = in.channels(), parts = (in.frames + rows - 1) / rows;
  float* sums = (float*)scratch;
  float* means = sums + round_up(channels, 16);
  for (int64_t block = first; block < last; ++block) {
    const int64_t from = block % parts * rows, count = std::min(rows, in.frames - from);
    const float* x = in.x + block / parts * in.in_batch + from * in.in_frame;
    double* out = moments + block * in.bands * 2;
    sum_rows(x, in.in_frame, count, channels, sums,
             [](F value, int64_t) __attribute__((always_inline)) { return value; });
    for (int64_t band = 0; band < in.bands; ++band) {
      const int64_t c = in.edges[band], width = in.edges[band + 1] - c;
      out[2 * band] = float(sum_of(sums + c, width) / double(width * count));
      for (int64_t i = c; i < c + width; ++i) means[i] = float(out[2 * band]);
    }
    sum_rows(x, in.in_frame, count, channels, sums, [&](F value, int64_t c) __attribute__((always_inline)) {
      const F centred = value - load(means + c);
      return centred * centred;
    });
    for (int64_t band = 0; band < in.bands; ++band) {
      const int64_t c = in.edges[band];
      out[2 * band + 1] = sum_of(sums + c, in.edges[band + 1] - c);
    }
  }
}

// Some frames of neighbouring bands.
struct BandBlock {
  int64_t item, frame, rows, band, bands;
};

// Cuts the frames into runs of at most kRows, all but the last a multiple of the largest tile.
template <int kRows>
struct FrameRuns {
  static_assert(kRows % (3 * kStep) == 0);
  int64_t frames;

  int64_t parts() const { return (frames + kRows - 1) / kRows; }
  int64_t length() const { return round_up((frames + parts() - 1) / parts(), 3 * kStep); }
  int64_t first(int64_t part) const { return std::min(frames, part * length()); }
};

// Floats that normalize_block writes, tables of three values per channel included.
inline int64_t normalized_floats(int64_t rows, int64_t channels) {
  return (round_up(rows, kStep) + 3) * round_up(channels, kLanes);
}

// Normalised rows of a block, channels padded to whole vectors; rows of zeros complete the last tile.
// Returns where the rows start: in front of them `to` holds what the norm needs per channel.
inline float* normalize_block(const BandFrames& in, const BandBlock& block, float* to) {
  const int64_t first = in.edges[block.band], channels = in.edges[block.band + block.bands] - first;
  const int64_t row = round_up(channels, kLanes);
  float *means = to, *factors = means + row, *biases = factors + row, *out = biases + row;
  for (int64_t band = block.band; band < block.band + block.bands; ++band) {
    const float mean = in.mean[block.item * in.bands + band], scale = in.scale[block.item * in.bands + band];
    for (int64_t c = in.edges[band]; c < in.edges[band + 1]; ++c) {
      means[c - first] = mean;
      factors[c - first] = scale * in.weight[c];
      biases[c - first] = in.bias[c];
    }
  }
  for (int64_t c = channels; c < row; ++c) means[c] = factors[c] = biases[c] = 0;
  const float* x = in.x + block.item * in.in_batch + block.frame * in.in_frame + first;
  for (int64_t r = 0; r < block.rows; ++r, x += in.in_frame)
    for (int64_t c = 0; c < row; c += kLanes) {
      const F centred = load_some(x + c, channels - c) - load(means + c);
      store(out + r * row + c, centred * load(factors + c) + load(biases + c));
    }
  std::memset(out + block.rows * row, 0, (round_up(block.rows, kStep) - block.rows) * row * sizeof(float));
  return out;
}

// One packed panel of NV vectors: write(r, sums...) for every row, those that only complete the last tile included.
template <int NV, class Write>
USSFAST_INLINE void panel_product(const float* in, int64_t in_row, int64_t rows, int64_t depth, const float* weight,
                                  const float* bias, Write&& write) {
  for_each_tile(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
    constexpr int MR = size;
    F acc[MR][NV];
    for (int r = 0; r < MR; ++r)
      for (int v = 0; v < NV; ++v) acc[r][v] = load(bias + v * kLanes);
    accumulate<Float32, MR, NV>(acc, (const char*)(in + m * in_row), in_row * 4, 4, (const char*)weight,
                                NV * sizeof(F), depth);
#pragma GCC unroll 12
    for (int r = 0; r < MR; ++r) {
      if constexpr (NV == 2) write(m + r, acc[r][0], acc[r][1]);
      else write(m + r, acc[r][0]);
    }
  });
}

struct BandSplit {
  const BandSplitArgs& a;
  const FrameRuns<96> runs;
  const int64_t out_width;

  explicit BandSplit(const BandSplitArgs& args)
      : a(args), runs{a.in.frames}, out_width(round_up(a.dim, kPanel)) {}

  int64_t blocks() const { return a.in.batch * runs.parts() * a.groups; }
  int64_t scratch() const {
    int64_t channels = 0;
    for (int64_t g = 0; g < a.groups; ++g)
      channels = std::max(channels, a.in.edges[a.group_edges[g + 1]] - a.in.edges[a.group_edges[g]]);
    return normalized_floats(runs.length(), channels) * sizeof(float);
  }

  void run(int64_t index, char* scratch) const {
    const int64_t group = index % a.groups, part = index / a.groups % runs.parts();
    const int64_t first = a.group_edges[group], from = runs.first(part), to = runs.first(part + 1);
    const BandBlock block = {index / a.groups / runs.parts(), from, to - from, first, a.group_edges[group + 1] - first};
    const float* in = normalize_block(a.in, block, (float*)scratch);
    const int64_t start = a.in.edges[first], in_row = round_up(a.in.edges[first + block.bands] - start, kLanes);
    const int64_t out_row = a.in.bands * a.dim;
    for (int64_t band = first; band < first + block.bands; ++band) {
      const int64_t depth = a.in.edges[band + 1] - a.in.edges[band];
      float* y = a.y + (block.item * a.in.frames + from) * out_row + band * a.dim;
      for (int64_t n = 0; n < out_width; n += kPanel, y += kPanel)
        // Captured by value: the compiler must take a store for a possible change of anything behind a reference.
        panel_product<2>(in + a.in.edges[band] - start, in_row, block.rows, depth,
                         a.weight + a.in.edges[band] * out_width + n * depth, a.bias + band * out_width + n,
                         [y, out_row, rows = block.rows, left = a.dim - n](int64_t r, F low, F high)
                             __attribute__((always_inline)) {
                               if (r >= rows) return;
                               float* to = y + r * out_row;
                               if (left >= kPanel) {
                                 store(to, low);
                                 store(to + kLanes, high);
                               } else {
                                 store_some(to, low, left);
                                 store_some(to + kLanes, high, left - kLanes);
                               }
                             });
    }
  }
};

struct BandMerge {
  const BandMergeArgs& a;
  const FrameRuns<96> runs;
  const int64_t hidden_width;

  explicit BandMerge(const BandMergeArgs& args)
      : a(args), runs{a.in.frames}, hidden_width(round_up(a.hidden, kPanel)) {}

  int64_t blocks() const { return a.in.batch * runs.parts() * a.in.bands; }
  // Floats of either of two buffers that the layers use in turn.
  int64_t buffer() const {
    int64_t widest = hidden_width;
    for (int64_t band = 0; band < a.in.bands; ++band) widest = std::max(widest, round_up(values(band), kLanes));
    return std::max(normalized_floats(runs.length(), a.dim), runs.length() * widest);
  }
  int64_t scratch() const { return 2 * buffer() * sizeof(float); }

  void run(int64_t index, char* scratch) const {
    const int64_t band = index % a.in.bands, part = index / a.in.bands % runs.parts();
    const int64_t item = index / a.in.bands / runs.parts(), from = runs.first(part), rows = runs.first(part + 1) - from;
    float *even = (float*)scratch, *odd = even + buffer();
    const float* in = normalize_block(a.in, {item, from, rows, band, 1}, even);
    tanh_layer(in, round_up(a.dim, kLanes), rows, a.dim, a.weight1 + band * hidden_width * a.dim,
               a.bias1 + band * hidden_width, odd);
    tanh_layer(odd, hidden_width, rows, a.hidden, a.weight2 + band * hidden_width * a.hidden,
               a.bias2 + band * hidden_width, even);
    glu_layer(even, rows, band, odd);
    const int64_t pairs = values(band) / a.sources, row = round_up(values(band), kLanes);  // floats, re and im
    for (int64_t s = 0; s < a.sources; ++s)
      for (int64_t r = 0; r < rows; ++r) {
        float* y = a.y + (((item * a.sources + s) * a.in.frames + from + r) * a.bins[a.in.bands] + a.bins[band]) * 2;
        std::memcpy(y, odd + r * row + s * pairs, pairs * sizeof(float));
      }
  }

 private:
  // Values of a band and frame behind the GLU: re and im of every bin and source.
  int64_t values(int64_t band) const { return 2 * (a.bins[band + 1] - a.bins[band]) * a.sources; }

  void tanh_layer(const float* in, int64_t in_row, int64_t rows, int64_t depth, const float* weight, const float* bias,
                  float* out) const {
    for (int64_t h = 0; h < hidden_width; h += kPanel)
      panel_product<2>(in, in_row, rows, depth, weight + h * depth, bias + h,
                       [to = out + h, row = hidden_width](int64_t r, F low, F high) __attribute__((always_inline)) {
                         store(to + r * row, tanh(low));
                         store(to + r * row + kLanes, tanh(high));
                       });
  }

  // A panel has kLanes values and their gates, or in one vector half as many of both, for what narrow bands leave over.
  void glu_layer(const float* in, int64_t rows, int64_t band, float* out) const {
    const int64_t count = values(band), row = round_up(count, kLanes);
    const float* weight = a.weight3 + a.columns[band] * a.hidden;
    const float* bias = a.bias3 + a.columns[band];
    for (int64_t n = 0; n < count; n += kLanes, out += kLanes)
      if (count - n > kLanes / 2) {
        panel_product<2>(in, hidden_width, rows, a.hidden, weight, bias,
                         [out, row](int64_t r, F values, F gates) __attribute__((always_inline)) {
                           store(out + r * row, values * sigmoid(gates));
                         });
        weight += a.hidden * kPanel;
        bias += kPanel;
      } else {
        panel_product<1>(in, hidden_width, rows, a.hidden, weight, bias,
                         [out, row](int64_t r, F both) __attribute__((always_inline)) {
                           const F gates = upper_half(both, std::make_integer_sequence<int, kLanes>());
                           store(out + r * row, both * sigmoid(gates));
                         });
      }
  }

  template <int... kLane>
  static USSFAST_INLINE F upper_half(F value, std::integer_sequence<int, kLane...>) {
    return __builtin_shufflevector(value, value, (kLane + kLanes / 2) % kLanes...);
  }
};

}  // namespace
}  // namespace ussfast
