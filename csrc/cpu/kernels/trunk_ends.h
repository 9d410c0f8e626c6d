// Between bins and bands: features of bins from levelled spectra, band tokens made of them, masks that weigh them.
#pragma once

#include "trunk_rows.h"

namespace ussfast {
namespace {

constexpr float kNothing = 1e-7f;  // magnitude from which levels are counted

// A spectrum of one item to its features, for all frames that follow.
template <class P>
struct TrunkFeatures {
  static constexpr int64_t kFrames = 3;
  using Element = typename P::Element;

  const TrunkArgs& a;
  const int64_t lanes, wide;  // of a row with zeros at both ends

  explicit TrunkFeatures(const TrunkArgs& args)
      : a(args), lanes(round_up(args.bins, kPanel)), wide(lanes + 2 * kLanes) {}

  int64_t blocks() const { return a.items; }
  int64_t scratch() const { return (kFrames * 3 * wide + (2 * a.features + kLanes) * kPanel) * sizeof(float); }

  void run(int64_t item, char* memory) const {
    float* planar = (float*)memory;  // [frames, 3, wide]
    const int64_t place = a.places[item], size = 3 * a.bins;
    float *last = a.last + place * (kFrames - 1) * size, *now = planar + (kFrames - 1) * 3 * wide + kLanes;
    for (int64_t t = 0; t < kFrames - 1; ++t)
      for (int64_t c = 0; c < 3; ++c) {
        float* row = planar + (t * 3 + c) * wide;
        clear_ends(row);
        for (int64_t b = 0; b < a.bins; ++b) row[kLanes + b] = last[t * size + b * 3 + c];
      }
    level(a.level[place], read(item, now), now);
    for (int64_t c = 0; c < 3; ++c) clear_ends(now - kLanes + c * wide);
    std::memcpy(last, last + size, (kFrames - 2) * size * sizeof(float));
    float* newest = last + (kFrames - 2) * size;
    for (int64_t b = 0; b < a.bins; ++b)
      for (int64_t c = 0; c < 3; ++c) newest[b * 3 + c] = now[c * wide + b];
    convolve(item, planar, planar + kFrames * 3 * wide);
  }

 private:
  void clear_ends(float* row) const {
    std::memset(row, 0, kLanes * sizeof(float));
    std::memset(row + kLanes + a.bins, 0, (wide - kLanes - a.bins) * sizeof(float));
  }

  // What stands for the channels' spectra (`linked` of ussfast/models/_linked.py) and its magnitudes, [3, wide]; returns
  // the mean magnitude.
  float read(int64_t item, float* to) const {
    const float* from = a.spec + item * a.channels * 2 * a.bins;
    for (int64_t b = 0; b < a.bins; ++b) to[b] = from[2 * b], to[wide + b] = from[2 * b + 1];
    if (a.channels > 1) link(from, to);
    F sum = {};
    for (int64_t b = 0; b < a.bins; b += kLanes) {
      const int64_t n = a.bins - b;
      const F re = load_some(to + b, n), im = load_some(to + wide + b, n);
      const F size = sqrt(re * re + im * im);
      sum += size;
      store(to + b, re), store(to + wide + b, im), store(to + 2 * wide + b, size);
    }
    return sum_of_lanes(sum) / float(a.bins);
  }

  // to: the first channel, and then the root of the channels' mean power at the phase of their sum, to which each adds
  // with the sign that makes it larger.
  void link(const float* from, float* to) const {
    const float share = 1.0f / a.channels;
    for (int64_t b = 0; b < a.bins; ++b) {
      float re = to[b], im = to[wide + b], power = re * re + im * im;
      for (int64_t channel = 1; channel < a.channels; ++channel) {
        const float* other = from + (channel * a.bins + b) * 2;
        const float sign = re * other[0] + im * other[1] < 0 ? -1.0f : 1.0f;
        re += sign * other[0], im += sign * other[1];
        power += other[0] * other[0] + other[1] * other[1];
      }
      const float gain = std::sqrt(power * share) / std::max(std::sqrt(re * re + im * im), 1e-30f);
      to[b] = re * gain, to[wide + b] = im * gain;
    }
  }

  // Magnitudes become their roots, over the root of the running level.
  void level(float& running, float mean, float* x) const {
    const float now = std::log(std::max(mean / kNothing, 1.0f));
    running = std::max(now, running - a.release);
    const float gain = std::exp(-0.5f * (running + std::log(kNothing)));
    for (int64_t b = 0; b < a.bins; b += kLanes) {
      const F root = sqrt(load(x + 2 * wide + b) + 1e-8f), scale = gain / root;
      store(x + b, load(x + b) * scale);
      store(x + wide + b, load(x + wide + b) * scale);
      store(x + 2 * wide + b, root * gain);
    }
  }

  void convolve(int64_t item, const float* planar, float* memory) const {
    constexpr int64_t depth = kFrames * 3;
    float *out = memory, *mixed = memory + (a.features + kLanes) * kPanel;
    const int64_t row = kFrames * depth * sizeof(float);
    float* own = a.planar + item * a.features * lanes;
    Element* rows = (Element*)a.interleaved + item * a.bins * a.features;
    for (int64_t b = 0; b < a.bins; b += kPanel) {
      for_exact_tiles(a.features, [&](auto size, int64_t m) __attribute__((always_inline)) {
        const auto taps = [&](auto add, int64_t n) __attribute__((always_inline)) {
          tile<Float32, size, 2, add>((const char*)(a.conv + m * kFrames * depth + n * depth), row, 4,
                                      (const char*)(planar + kLanes + b + n - 1), wide * 4, depth,
                                      (char*)(out + m * kPanel), kPanel * 4);
        };
        taps(std::false_type(), 0);
        taps(std::true_type(), 1);
        taps(std::true_type(), 2);
      });
      for (int64_t f = 0; f < a.features; ++f)
        for (int v = 0; v < kPanel; v += kLanes) {
          const F value = silu(load(out + f * kPanel + v) + a.conv_bias[f]);
          store(own + f * lanes + b + v, value);
          store(out + f * kPanel + v, value);
        }
      interleave(out, mixed);
      const int64_t count = std::min<int64_t>(kPanel, a.bins - b) * a.features;
      for (int64_t i = 0; i < count; i += kLanes) put_some(rows + b * a.features + i, load(mixed + i), count - i);
    }
    // An odd number of values ends in half a pair: what lies behind meets a weight of 0, but must be a number.
    if (item + 1 == a.items) put(rows + a.bins * a.features, F{});
  }

  // [features][kPanel] -> [kPanel][features].
  void interleave(const float* from, float* to) const {
    for (int64_t f = 0; f < a.features; ++f)
      for (int64_t i = 0; i < kPanel; ++i) to[i * a.features + f] = from[f * kPanel + i];
  }
};

// A band's tokens of all items.
template <class P>
struct TrunkEncode {
  using Rows = TrunkRows<P>;
  using Element = typename P::Element;

  const TrunkArgs& a;
  const int64_t width;

  explicit TrunkEncode(const TrunkArgs& args) : a(args), width(round_up(args.dim, kPanel)) {}

  int64_t blocks() const { return a.bands; }
  int64_t scratch() const { return Rows::floats(a.items, width); }

  void run(int64_t band, char* memory) const {
    float* out = (float*)memory;
    int64_t at = 0;
    for (int64_t b = 0; b < band; ++b) at += Rows::panels(a.dim, depth(b));
    const Element* in = (const Element*)a.interleaved + a.edges[band] * a.features;
    Rows::template map<false>(a.items, in, a.bins * a.features, a.encoder + at, a.dim, depth(band), out, width);
    for (int64_t item = 0; item < a.items; ++item) {
      float* x = a.x + (item * a.bands + band) * a.dim;
      for (int64_t c = 0; c < a.dim; ++c) x[c] = out[item * width + c] + a.band_rows[band * a.dim + c];
    }
  }

 private:
  int64_t depth(int64_t band) const { return (a.edges[band + 1] - a.edges[band]) * a.features; }
};

// A band's masks of all pairs.
template <class P>
struct TrunkDecode {
  using Rows = TrunkRows<P>;
  using Element = typename P::Element;

  const TrunkArgs& a;
  const int64_t lanes, units;

  explicit TrunkDecode(const TrunkArgs& args)
      : a(args), lanes(round_up(args.bins, kPanel)), units(2 * round_up(2 * args.dim, kLanes)) {}

  int64_t blocks() const { return a.pairs ? a.bands : 0; }
  int64_t scratch() const {
    int64_t most = 0;
    for (int64_t band = 0; band < a.bands; ++band) most = std::max(most, columns(band));
    return Rows::bytes(a.pairs, units / 2) + Rows::floats(a.pairs, round_up(most, kPanel));
  }

  void run(int64_t band, char* memory) const {
    Element* hidden = (Element*)memory;
    float* out = (float*)(memory + Rows::bytes(a.pairs, units / 2));
    const Element* in = (const Element*)a.headed + band * a.pairs * a.dim;
    Rows::expand(1, 0, a.pairs, in, a.dim, a.decoder_inner + band * Rows::panels(units, a.dim), nullptr, units, a.dim,
                 hidden);
    int64_t at = 0;
    for (int64_t b = 0; b < band; ++b) at += Rows::panels(columns(b), units / 2);
    const int64_t row = round_up(columns(band), kPanel);
    Rows::template map<false>(a.pairs, hidden, units / 2, a.decoder_out + at, columns(band), units / 2, out, row);
    for (int64_t item = 0; item < a.items; ++item)
      for (int64_t pair = a.first[item]; pair < a.first[item + 1]; ++pair)
        weigh(band, out + pair * row, a.planar + item * a.features * lanes, a.masks + pair * 2 * lanes);
  }

 private:
  int64_t columns(int64_t band) const { return 2 * (a.edges[band + 1] - a.edges[band] + a.features); }

  void weigh(int64_t band, const float* from, const float* features, float* masks) const {
    const int64_t begin = a.edges[band], count = a.edges[band + 1] - begin;
    const float* weights = from + 2 * count;
    for (int64_t b = 0; b < count; b += kLanes) {
      const float *bias = a.mask_bias + begin + b, *own = features + begin + b;
      F re = load(from + b) + load(bias), im = load(from + count + b) + load(bias + lanes);
      for (int64_t f = 0; f < a.features; ++f) {
        const F value = load(own + f * lanes);
        re += weights[f] * value;
        im += weights[a.features + f] * value;
      }
      store_some(masks + begin + b, re, count - b);
      store_some(masks + lanes + begin + b, im, count - b);
    }
  }
};

}  // namespace
}  // namespace ussfast
