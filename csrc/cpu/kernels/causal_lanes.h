// Layers on panels of positions: [channels][kPanel], where everything but the products is elementwise.
//
// A bias is the last column of its weights; the row behind the channels of a panel is then 1.
#pragma once

#include "gemm.h"
#include "layers.h"

namespace ussfast {
namespace {

constexpr int64_t panel_floats(int64_t channels) { return (channels + kSpareRows + 1) * kPanel; }

inline void set_ones(float* panel, int64_t row) {
  for (int v = 0; v < 2; ++v) store(panel + row * kPanel + v * kLanes, splat(1.0f));
}

// weights[rows, depth] * panel; rows of `out` are out_row floats apart.
inline void map_panel(const float* weights, int64_t rows, int64_t depth, const float* panel, float* out,
                      int64_t out_row = kPanel) {
  product<Float32, 2, false>(rows, weights, depth * 4, 4, panel, kPanel * 4, depth, out, out_row * 4);
}

// RMSNorm of every position; eps is added inside the root.
inline void norm_panel(const float* x, const float* weight, int64_t channels, float eps, float* y) {
  for (int64_t at = 0; at < kPanel; at += kLanes) {
    F sum = {};
    for (int64_t c = 0; c < channels; ++c) {
      const F value = load(x + c * kPanel + at);
      sum += value * value;
    }
    const F scale = 1.0f / sqrt(sum / float(channels) + eps);
    for (int64_t c = 0; c < channels; ++c) store(y + c * kPanel + at, load(x + c * kPanel + at) * scale * weight[c]);
  }
}

inline int64_t glu_floats(int64_t channels, int64_t hidden) {
  return panel_floats(channels) + panel_floats(2 * hidden) + panel_floats(hidden);
}

// x += outer(value * SiLU(gate)), (value, gate) = inner(norm(x)). memory: glu_floats.
inline void glu_panel(float* x, const float* norm, const float* inner, const float* outer, int64_t channels,
                      int64_t hidden, float eps, float* memory) {
  float* normed = memory;  // in the end: what is added to x
  float* both = normed + panel_floats(channels);
  float* gated = both + panel_floats(2 * hidden);
  norm_panel(x, norm, channels, eps, normed);
  set_ones(normed, channels);
  map_panel(inner, 2 * hidden, channels + 1, normed, both);
  const float* gates = both + hidden * kPanel;
  for (int64_t i = 0; i < hidden * kPanel; i += kLanes) store(gated + i, load(both + i) * silu(load(gates + i)));
  set_ones(gated, hidden);
  map_panel(outer, channels, hidden + 1, gated, normed);
  for (int64_t i = 0; i < channels * kPanel; i += kLanes) store(x + i, load(x + i) + load(normed + i));
}

}  // namespace
}  // namespace ussfast
