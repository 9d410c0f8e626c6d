// The time path of a block for one frame: every position continues its own sequence.
//
// A ring of keys or values is read once, in the order in which it lies in memory: that is what takes the time.
#pragma once

#include "attention.h"
#include "causal.h"
#include "ffn.h"
#include "norm.h"

namespace ussfast {
namespace {

// The sum of all lanes.
USSFAST_INLINE float total(F x) {
  const auto four = fold<float, kLanes>(x, std::make_index_sequence<kLanes / 2>());
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// Fetches what lies kFetch behind NV vectors that are being read, to the second level: hardware stops at every page.
constexpr int64_t kFetch = 1024;  // floats
template <int NV>
USSFAST_INLINE void fetch(const float* at) {
  for (int i = 0; i < NV * kLanes; i += 16) __builtin_prefetch(at + kFetch + i, 0, 2);
}

// scores[key] = sum over c of query[c] * keys[c][key], for NV vectors of keys of which `count` exist; others kMasked.
template <int NV>
USSFAST_INLINE void score_vectors(const float* query, int64_t width, const float* keys, int64_t row, int64_t count,
                                  float* scores) {
  const int64_t rest = count - (NV - 1) * kLanes;
  const First last(rest);
  F acc[NV] = {};
  for (int64_t c = 0; c < width; ++c, keys += row) {
    const float q = query[c];
    if constexpr (NV > 2) fetch<NV>(keys);
#pragma GCC unroll 10
    for (int v = 0; v < NV - 1; ++v) acc[v] += q * load(keys + v * kLanes);
    acc[NV - 1] += q * last.load(keys + (NV - 1) * kLanes);
  }
  for (int v = 0; v < NV - 1; ++v) store(scores + v * kLanes, acc[v]);
  const I exist = lane_index() < int32_t(std::min<int64_t>(rest, kLanes));
  store(scores + (NV - 1) * kLanes, exist ? acc[NV - 1] : splat(kMasked));
}

// The same for any number of keys.
inline void score_keys(const float* query, int64_t width, const float* keys, int64_t row, int64_t count,
                       float* scores) {
  for (int64_t at = 0; at < count;) {
    const int64_t left = count - at;
    const auto some = [&](auto vectors) __attribute__((always_inline)) {
      score_vectors<vectors>(query, width, keys + at, row, left, scores + at);
      at += vectors * kLanes;
    };
    if (left > 9 * kLanes) some(std::integral_constant<int, 10>());
    else if (left > 4 * kLanes) some(std::integral_constant<int, 5>());
    else if (left > kLanes) some(std::integral_constant<int, 2>());
    else some(std::integral_constant<int, 1>());
  }
}

// Keys that lie together: `count` of them, their weights at `weights` of each head's row.
struct Stretch {
  const float* values;
  int64_t count, weights;
};

struct CausalTime {
  static constexpr int64_t kRows = 60;  // positions per block: five of the largest tiles

  const CausalTimeArgs& a;
  const int64_t channels, width, out_width, qkv_width, ring, score_row;

  explicit CausalTime(const CausalTimeArgs& args)
      : a(args),
        channels(args.after.ffn.at.channels),
        width(args.heads * args.head_width),
        out_width(round_up(channels, kPanel)),
        qkv_width(round_up(3 * width, kPanel)),
        ring(round_up(args.prompts, kLanes)),
        score_row(ring + round_up(args.window, kLanes)) {}

  int64_t blocks() const { return (a.positions + kRows - 1) / kRows; }
  int64_t scratch() const {
    const int64_t before = a.has_before ? feed_floats(a.before.ffn) : 0;
    const int64_t most = std::max({before, feed_floats(a.after.ffn), attention_floats()});
    return (most + (kRows + kSpareRows) * out_width) * sizeof(float);
  }

  void run(int64_t block, char* memory) const {
    const int64_t first = block * kRows, count = std::min(kRows, a.positions - first);
    float* x = (float*)memory;
    float* rest = x + (kRows + kSpareRows) * out_width;
    for (int64_t r = 0; r < count; ++r)
      std::memcpy(x + r * out_width, a.x + (first + r) * channels, channels * sizeof(float));
    if (a.has_before) feed(a.before, first, count, x, rest);
    attention(first, count, x, rest);
    feed(a.after, first, count, x, rest);
    for (int64_t r = 0; r < count; ++r)
      std::memcpy(a.y + (first + r) * channels, x + r * out_width, channels * sizeof(float));
  }

 protected:
  static int64_t rows_of(int64_t row) { return round_up((kRows + kSpareRows) * row, 16); }

  int64_t feed_floats(const FfnArgs& f) const {
    const int64_t hidden = round_up(f.hidden, kLanes);
    return rows_of(f.kernel * channels) + rows_of((f.kernel - 1) * hidden) + rows_of(hidden);
  }
  int64_t attention_floats() const {
    return rows_of(channels) + rows_of(qkv_width) + rows_of(width) + a.heads * score_row;
  }

  // Where a position is in the state.
  int64_t place(int64_t position) const { return a.places[position / a.bands] * a.bands + position % a.bands; }

  // x += what the layer adds to `count` positions; its state then has them.
  void feed(const CausalFfn& layer, int64_t first, int64_t count, float* x, float* memory) const {
    const FfnArgs& f = layer.ffn;
    const Ffn<Float32> ffn(f);
    const int64_t past = f.kernel - 1, row = f.kernel * channels, wide = ffn.hidden_width;
    float* in = memory;
    float* old = in + rows_of(row);
    float* hidden = old + rows_of(past * wide);
    for (int64_t r = 0; r < count; ++r) {
      float *state = layer.inputs + place(first + r) * past * channels, *to = in + r * row;
      std::memcpy(to, state, past * channels * sizeof(float));
      normalize_row(x + r * out_width, f.norm.weight, to + past * channels, f.norm.groups, channels / f.norm.groups,
                    f.norm.eps);
      std::memcpy(state, to + channels, past * channels * sizeof(float));
    }
    ffn.expand((const char*)in, count, (char*)hidden);
    for (int64_t r = 0; r < count; ++r) {
      float* state = layer.hidden + place(first + r) * past * f.hidden;
      for (int64_t t = 0; t < past; ++t) {
        float *from = state + t * f.hidden, *to = old + (r * past + t) * wide;
        for (int64_t h = 0; h < wide; h += kLanes) store(to + h, load_some(from + h, f.hidden - h));
        std::memcpy(from, t + 1 < past ? from + f.hidden : hidden + r * wide, f.hidden * sizeof(float));
      }
      for (int64_t c = 0; c < out_width; c += kLanes)
        store(x + r * out_width + c, load(x + r * out_width + c) + load(f.deconv_bias + c));
    }
    // Tap j of the transposed convolution reaches j frames ahead: this frame gathers from the last `kernel` ones.
    const char* weights = f.deconv;
    for (int64_t tap = 0; tap < f.kernel; ++tap)
      for (int64_t c = 0; c < out_width; c += kPanel, weights += wide * kPanel * 4) {
        const float* from = tap ? old + (past - tap) * wide : hidden;
        product<Float32, 2, true>(count, from, (tap ? past : 1) * wide * 4, 4, weights, kPanel * 4, wide, x + c,
                                  out_width * 4);
      }
  }

  void attention(int64_t first, int64_t count, float* x, float* memory) const {
    float* normed = memory;
    float* qkv = normed + rows_of(channels);
    float* mixed = qkv + rows_of(qkv_width);
    float* scores = mixed + rows_of(width);
    project_rows(count, x, normed, qkv);
    for (int64_t r = 0; r < count; ++r) look_back(first + r, qkv + r * qkv_width, mixed + r * width, scores);
    for (int64_t c = 0; c < out_width; c += kPanel)
      product<Float32, 2, true>(count, mixed, width * 4, 4, a.out + c * width, kPanel * 4, width, x + c,
                                out_width * 4);
  }

  void project_rows(int64_t count, const float* x, float* normed, float* qkv) const {
    for (int64_t r = 0; r < count; ++r)
      normalize_row(x + r * out_width, a.norm.weight, normed + r * channels, a.norm.groups, channels / a.norm.groups,
                    a.norm.eps);
    for (int64_t c = 0; c < qkv_width; c += kPanel)
      product<Float32, 2, false>(count, normed, channels * 4, 4, a.qkv + c * channels, kPanel * 4, channels, qkv + c,
                                 qkv_width * 4);
  }

  // One position attends to its prompts and its ring, which then has its own key and value.
  void look_back(int64_t position, const float* query, float* mixed, float* scores) const {
    const int64_t item = position / a.bands, mine = place(position), asking = a.shared ? position % a.bands : mine;
    const int64_t seen = a.seen[a.places[item]], slot = seen % a.window, visible = std::min(seen + 1, a.window);
    const int64_t asked = a.first[item + 1] - a.first[item];
    const float *key = query + width, *value = key + width, *prefix = a.prefix_keys + asking * width * a.prompts;
    float *keys = a.keys + mine * width * a.window, *values = a.values + mine * width * a.window;
    std::memcpy(values + slot * width, value, width * sizeof(float));
    for (int64_t h = 0; h < a.heads; ++h) {
      const int64_t at = h * a.head_width;
      float* row = scores + h * score_row;
      score_keys(query + at, a.head_width, prefix + at * a.prompts, a.prompts, asked, row);
      score_keys(query + at, a.head_width, keys + at * a.window, a.window, visible, row + ring);
      row[ring + slot] = dot(query + at, key + at);
    }
    // Only now: a read right behind these scattered writes would wait for them.
    for (int64_t c = 0; c < width; ++c) keys[c * a.window + slot] = key[c];
    for (int64_t h = 0; h < a.heads; ++h) softmax(scores + h * score_row, asked, visible);
    mix_all({a.prefix_values + asking * width * a.prompts, asked, 0}, {values, visible, ring}, scores, mixed);
  }

  void mix_all(const Stretch& prompts, const Stretch& frames, const float* scores, float* mixed) const {
    const Stretch stretches[] = {prompts, frames};
    const int64_t per_head = (a.head_width + kLanes - 1) / kLanes, vectors = a.heads * per_head;
    int64_t v = 0;
    for (; v + 4 <= vectors; v += 4) mix<4>(v, per_head, stretches, scores, mixed);
    for (; v < vectors; ++v) mix<1>(v, per_head, stretches, scores, mixed);
  }

  float dot(const float* q, const float* k) const {
    F sum = {};
    for (int64_t c = 0; c < a.head_width; c += kLanes)
      sum += load_some(q + c, a.head_width - c) * load_some(k + c, a.head_width - c);
    return total(sum);
  }

  void softmax(float* row, int64_t asked, int64_t visible) const {
    F best = splat(kMasked);
    const auto each = [&](auto&& body) __attribute__((always_inline)) {
      for (int64_t i = 0; i < asked; i += kLanes) body(row + i);
      for (int64_t i = 0; i < visible; i += kLanes) body(row + ring + i);
    };
    each([&](float* at) { best = max(best, load(at)); });
    const F top = splat(largest(best));
    F sum = {};
    each([&](float* at) {
      const F weight = exp2_negative(load(at) - top);
      store(at, weight);
      sum += weight;
    });
    const float scale = 1.0f / total(sum);
    each([&](float* at) { store(at, load(at) * scale); });
  }

  // NV vectors of the result, counted through all heads.
  template <int NV>
  USSFAST_INLINE void mix(int64_t v, int64_t per_head, const Stretch (&stretches)[2], const float* scores,
                          float* mixed) const {
    const auto from = [&](int i) { return (v + i) / per_head * a.head_width + (v + i) % per_head * kLanes; };
    const auto left = [&](int i) { return a.head_width - (v + i) % per_head * kLanes; };
    F acc[NV] = {};
    for (const Stretch& s : stretches) {
      const float *weights[NV], *values[NV];
      for (int i = 0; i < NV; ++i) {
        weights[i] = scores + (v + i) / per_head * score_row + s.weights;
        values[i] = s.values + from(i);
      }
      const auto add = [&](auto&& get) __attribute__((always_inline)) {
        for (int64_t key = 0; key < s.count; ++key) {
          if constexpr (NV > 2) fetch<NV>(values[0] + key * width);
#pragma GCC unroll 4
          for (int i = 0; i < NV; ++i) acc[i] += weights[i][key] * get(values[i] + key * width, i);
        }
      };
      if (a.head_width % kLanes == 0) add([](const float* at, int) __attribute__((always_inline)) { return load(at); });
      else add([&](const float* at, int i) __attribute__((always_inline)) { return First(left(i)).load(at); });
    }
    for (int i = 0; i < NV; ++i) store_some(mixed + from(i), acc[i], left(i));
  }
};

}  // namespace
}  // namespace ussfast
