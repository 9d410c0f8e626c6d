// The encoder of one frame: features of bins, what each bin computes alone, and the bands that attend to the bins.
#pragma once

#include "causal_lanes.h"
#include "cross_attention.h"

namespace ussfast {
namespace {

// Sizes that all parts of the encoder and decoder need.
struct BinRows {
  const int64_t lanes, wide;
  explicit BinRows(int64_t bins) : lanes(round_up(bins, kPanel)), wide(lanes + kPanel) {}
};

// Frames that a convolution sees, oldest first: `past` (changed in place) and then `newest`, [positions][channels].
inline void push_frame(float* past, int64_t frames, int64_t size, const float* newest) {
  if (frames == 0) return;
  std::memmove(past, past + size, (frames - 1) * size * sizeof(float));
  std::memcpy(past + (frames - 1) * size, newest, size * sizeof(float));
}

// Running level and features of an item, as rows of bins for the convolution.
struct CausalFeatures {
  const CausalFrontArgs& a;
  const BinRows rows;

  explicit CausalFeatures(const CausalFrontArgs& args) : a(args), rows(args.bins) {}
  int64_t blocks() const { return a.items; }
  int64_t scratch() const { return (3 * rows.lanes + 3 * a.bins) * sizeof(float); }

  void run(int64_t item, char* memory) const {
    float *re = (float*)memory, *im = re + rows.lanes, *root = im + rows.lanes, *features = root + rows.lanes;
    mean_spectrum(item, re, im);
    const float gain = 1.0f / std::sqrt(update_level(item, re, im, root) + 1e-4f);
    for (int64_t i = 0; i < rows.lanes; i += kLanes) {
      // Compressed: square roots of magnitudes, whose mean square is the mean magnitude.
      const F up = sqrt(load(root + i) + 1e-8f), factor = gain / up;
      store(re + i, load(re + i) * factor);
      store(im + i, load(im + i) * factor);
      store(root + i, up * gain);
    }
    const int64_t before = a.frames - 1;
    float* past = a.features + a.places[item] * before * a.bins * 3;
    float* planar = a.planar + item * a.frames * 3 * rows.wide + 1;
    for (int64_t row = 0; row < 3 * a.frames; ++row) {
      planar[row * rows.wide - 1] = 0;
      std::memset(planar + row * rows.wide + a.bins, 0, (rows.wide - 1 - a.bins) * sizeof(float));
    }
    for (int64_t frame = 0; frame < before; ++frame, planar += 3 * rows.wide)
      for (int64_t bin = 0; bin < a.bins; ++bin)
        for (int i = 0; i < 3; ++i) planar[i * rows.wide + bin] = past[(frame * a.bins + bin) * 3 + i];
    std::memcpy(planar, re, a.bins * sizeof(float));
    std::memcpy(planar + rows.wide, im, a.bins * sizeof(float));
    std::memcpy(planar + 2 * rows.wide, root, a.bins * sizeof(float));
    for (int64_t bin = 0; bin < a.bins; ++bin) {
      features[3 * bin] = re[bin];
      features[3 * bin + 1] = im[bin];
      features[3 * bin + 2] = root[bin];
    }
    push_frame(past, before, 3 * a.bins, features);
  }

 private:
  // Of an item's channels; zero beyond the bins.
  void mean_spectrum(int64_t item, float* re, float* im) const {
    std::memset(re, 0, 2 * rows.lanes * sizeof(float));
    for (int64_t channel = 0; channel < a.channels; ++channel) {
      const float* from = a.spec + (item * a.channels + channel) * a.bins * 2;
      for (int64_t bin = 0; bin < a.bins; ++bin) {
        re[bin] += from[2 * bin];
        im[bin] += from[2 * bin + 1];
      }
    }
    if (a.channels > 1)
      for (int64_t bin = 0; bin < 2 * rows.lanes; ++bin) re[bin] /= float(a.channels);
  }

  // The new level; magnitudes of the bins.
  float update_level(int64_t item, const float* re, const float* im, float* magnitudes) const {
    F sum = {};
    for (int64_t i = 0; i < rows.lanes; i += kLanes) {
      const F x = load(re + i), y = load(im + i), size = sqrt(x * x + y * y);
      store(magnitudes + i, size);
      sum += size;
    }
    float total = 0;
    for (int i = 0; i < kLanes; ++i) total += sum[i];
    const float count = float(std::min(a.seen[a.places[item]] + 1, a.limit));
    float& level = a.level[a.places[item]];
    return level = total / float(a.bins) / count + (1 - 1 / count) * level;
  }
};

// What a panel of bins computes alone: keys and values for the bands, and features for the decoder.
struct CausalBins {
  const CausalFrontArgs& a;
  const BinRows rows;
  const int64_t panels, depth;

  explicit CausalBins(const CausalFrontArgs& args)
      : a(args), rows(args.bins), panels(rows.lanes / kPanel), depth(9 * args.frames) {}
  int64_t blocks() const { return a.items * panels; }
  int64_t scratch() const {
    return (panel_floats(depth) + panel_floats(a.inner) + std::max(panel_floats(a.inner), glu())) * sizeof(float);
  }

  void run(int64_t block, char* memory) const {
    const int64_t item = block / panels, at = block % panels * kPanel;
    float* taps = (float*)memory;
    float* tokens = taps + panel_floats(depth);
    float* rest = tokens + panel_floats(a.inner);
    const float* planar = a.planar + item * a.frames * 3 * rows.wide + at;
    float* to = taps;
    for (int64_t row = 0; row < 3 * a.frames; ++row, planar += rows.wide)
      for (int tap = 0; tap < 3; ++tap, to += kPanel)
        for (int v = 0; v < 2; ++v) store(to + v * kLanes, load(planar + tap + v * kLanes));
    set_ones(taps, depth);
    map_panel(a.conv, a.inner, depth + 1, taps, tokens);
    norm_panel(tokens, a.conv_norm, a.inner, a.eps, tokens);
    norm_panel(tokens, a.kv_norm, a.inner, a.eps, rest);
    map_panel(a.kv, 2 * a.inner, a.inner, rest, a.kv_lanes + item * (2 * a.inner + kSpareRows) * rows.lanes + at,
              rows.lanes);
    glu_panel(tokens, a.bin_norm, a.bin_inner, a.bin_outer, a.inner, a.bin_hidden, a.eps, rest);
    float* own = a.own + item * a.inner * rows.lanes + at;
    for (int64_t c = 0; c < a.inner; ++c)
      std::memcpy(own + c * rows.lanes, tokens + c * kPanel, kPanel * sizeof(float));
  }

 private:
  int64_t glu() const { return glu_floats(a.inner, a.bin_hidden); }
};

// The bands of an item: attention to its bins, a convolution over neighbours and the past, a norm.
struct CausalBands {
  const CausalFrontArgs& a;
  const BinRows rows;
  const int64_t head_width, row, out_width;

  explicit CausalBands(const CausalFrontArgs& args)
      : a(args),
        rows(args.bins),
        head_width(args.inner / args.heads),
        row(args.frames * args.inner),
        out_width(round_up(args.dim, kPanel)) {}
  int64_t blocks() const { return a.items; }
  int64_t scratch() const {
    const int64_t glu = a.band_hidden ? glu_floats(a.inner, a.band_hidden) : 0;
    return (in_floats() + newest_floats() + out_floats() + 2 * panel_floats(a.inner) +
            std::max(attend_memory(head_width), glu)) * sizeof(float);
  }

  void run(int64_t item, char* memory) const {
    float* in = (float*)memory;
    float* newest = in + in_floats();
    float* out = newest + newest_floats();
    attend_bands(item, newest, out + out_floats());
    float* past = a.tokens + a.places[item] * (a.frames - 1) * a.bands * a.inner;
    std::memset(in, 0, row * sizeof(float));
    std::memset(in + (a.bands + 1) * row, 0, row * sizeof(float));
    for (int64_t frame = 0; frame < a.frames; ++frame) {
      const float* from = frame + 1 < a.frames ? past + frame * a.bands * a.inner : newest;
      for (int64_t band = 0; band < a.bands; ++band)
        std::memcpy(in + (band + 1) * row + frame * a.inner, from + band * a.inner, a.inner * sizeof(float));
    }
    push_frame(past, a.frames - 1, a.bands * a.inner, newest);
    for (int64_t c = 0; c < out_width; c += kPanel)
      product<Float32, 2, false>(a.bands, in, row * 4, 4, a.band_conv + c * 3 * row, kPanel * 4, 3 * row, out + c,
                                 out_width * 4);
    for (int64_t band = 0; band < a.bands; ++band)
      finish(out + band * out_width, a.y + (item * a.bands + band) * a.dim);
  }

 private:
  int64_t in_floats() const { return round_up((a.bands + 2 + kSpareRows) * row, 16); }
  int64_t newest_floats() const { return round_up(a.bands * a.inner, 16); }
  int64_t out_floats() const { return (a.bands + kSpareRows) * out_width; }

  // [bands][inner] of the new frame.
  void attend_bands(int64_t item, float* to, float* memory) const {
    CrossAttentionArgs edges = {};
    edges.edges = a.edges;
    edges.bands = round_up(a.bands, kPanel);
    float* mixed = memory;
    float* bands = mixed + panel_floats(a.inner);
    float* rest = bands + panel_floats(a.inner);
    const float* keys = a.kv_lanes + item * (2 * a.inner + kSpareRows) * rows.lanes;
    const Visibility all = {a.bins, 0, 0, false};
    for (int64_t first = 0; first < a.bands; first += kPanel) {
      const int64_t count = std::min<int64_t>(kPanel, a.bands - first);
      for (int64_t head = 0; head < a.heads; ++head) {
        const float* k = keys + head * head_width * rows.lanes;
        const Head part = {k, k + a.inner * rows.lanes, 1, rows.lanes, 1, rows.lanes, head_width};
        const float* query = a.queries + (head * edges.bands + first) * head_width;
        float* out = mixed + head * head_width * kPanel;
        const BandQueries bias(edges, first, a.slope[head]);
        if (count > kLanes) attend<2>(part, all, query, kPanel, first, count, bias, out, kPanel, rest);
        else attend<1>(part, all, query, kPanel, first, count, bias, out, kPanel, rest);
      }
      map_panel(a.out, a.inner, a.inner, mixed, bands);
      if (a.band_hidden)
        glu_panel(bands, a.band_norm, a.band_inner, a.band_outer, a.inner, a.band_hidden, a.eps, rest);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t c = 0; c < a.inner; ++c) to[(first + i) * a.inner + c] = bands[c * kPanel + i];
    }
  }

  // Bias and norm of a band.
  void finish(float* x, float* y) const {
    F squares = {};
    for (int64_t c = 0; c < a.dim; c += kLanes) {
      const F value = load_some(x + c, a.dim - c) + load_some(a.band_bias + c, a.dim - c);
      store_some(x + c, value, a.dim - c);
      squares += value * value;
    }
    float sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += squares[i];
    const float scale = 1.0f / std::sqrt(sum / float(a.dim) + a.eps);
    for (int64_t c = 0; c < a.dim; c += kLanes) {
      const int64_t left = a.dim - c;
      store_some(y + c, load_some(x + c, left) * scale * load_some(a.dim_norm + c, left), left);
    }
  }
};

}  // namespace
}  // namespace ussfast
