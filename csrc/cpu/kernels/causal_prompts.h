// The time path of a block for prompt rows: they see one another, band by band, and nothing else.
//
// What frames need of them, their keys and values, is a result of its own. There are few rows: one block does them all.
#pragma once

#include "causal_time.h"

namespace ussfast {
namespace {

// Positions are (prompt, band), counted through; args.keys and args.values [bands, width, prompts] and [bands, prompts,
// width] are results. Layers begin with a state of zeros: a row is a sequence of its own.
struct CausalPrompts : CausalTime {
  using CausalTime::CausalTime;

  int64_t blocks() const { return 1; }
  int64_t scratch() const { return CausalTime::scratch() + rows_of(a.positions * width) * sizeof(float); }

  void run(int64_t, char* memory) const {
    float* queries = (float*)memory;
    float* x = queries + round_up(a.positions * width, 16);
    float* rest = x + (kRows + kSpareRows) * out_width;
    for (int64_t first = 0; first < a.positions; first += kRows) {
      const int64_t count = std::min(kRows, a.positions - first);
      take(a.x, first, count, x);
      if (a.has_before) feed(a.before, first, count, x, rest);
      give(x, first, count, a.rows);
      project(first, count, x, queries, rest);
    }
    for (int64_t first = 0; first < a.positions; first += kRows) {
      const int64_t count = std::min(kRows, a.positions - first);
      take(a.rows, first, count, x);
      float* mixed = rest;
      float* scores = mixed + rows_of(width);
      for (int64_t r = 0; r < count; ++r)
        look_around(first + r, queries + (first + r) * width, mixed + r * width, scores);
      for (int64_t c = 0; c < out_width; c += kPanel)
        product<Float32, 2, true>(count, mixed, width * 4, 4, a.out + c * width, kPanel * 4, width, x + c,
                                  out_width * 4);
      feed(a.after, first, count, x, rest);
      give(x, first, count, a.y);
    }
  }

 private:
  void take(const float* from, int64_t first, int64_t count, float* x) const {
    for (int64_t r = 0; r < count; ++r)
      std::memcpy(x + r * out_width, from + (first + r) * channels, channels * sizeof(float));
  }
  void give(const float* x, int64_t first, int64_t count, float* to) const {
    for (int64_t r = 0; r < count; ++r)
      std::memcpy(to + (first + r) * channels, x + r * out_width, channels * sizeof(float));
  }

  void project(int64_t first, int64_t count, const float* x, float* queries, float* memory) const {
    float* normed = memory;
    float* qkv = normed + rows_of(channels);
    project_rows(count, x, normed, qkv);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t prompt = (first + r) / a.bands, band = (first + r) % a.bands;
      const float *query = qkv + r * qkv_width, *key = query + width, *value = key + width;
      std::memcpy(queries + (first + r) * width, query, width * sizeof(float));
      for (int64_t c = 0; c < width; ++c) a.keys[(band * width + c) * a.prompts + prompt] = key[c];
      std::memcpy(a.values + (band * a.prompts + prompt) * width, value, width * sizeof(float));
    }
  }

  void look_around(int64_t position, const float* query, float* mixed, float* scores) const {
    const int64_t band = position % a.bands;
    for (int64_t h = 0; h < a.heads; ++h) {
      const int64_t at = h * a.head_width;
      score_keys(query + at, a.head_width, a.keys + (band * width + at) * a.prompts, a.prompts, a.prompts,
                 scores + h * score_row);
      softmax(scores + h * score_row, a.prompts, 0);
    }
    mix_all({a.values + band * a.prompts * width, a.prompts, 0}, {nullptr, 0, ring}, scores, mixed);
  }
};

}  // namespace
}  // namespace ussfast
