// The gradient of locoformer_attention.h with respect to its input, one sequence at a time.
//
// Queries, keys and values are computed again; what the softmax needs was kept. Gradients take the places of what they
// are of, [3 * width][positions], so that turning them back is elementwise and the way through the projection one product.
#pragma once

#include "attention_backward.h"
#include "locoformer_attention.h"
#include "norm_gradient.h"

namespace ussfast {
namespace {

struct LocoformerAttentionBackward : LocoformerAttention {
  const AttentionGradArgs& g;
  const int64_t length, row, out_row;

  explicit LocoformerAttentionBackward(const AttentionGradArgs& args)
      : LocoformerAttention(args),
        g(args),
        length(args.at.length),
        row(round_up(args.head_width, kLanes)),
        out_row(round_up(channels, kPanel)) {}

  int64_t scratch() const { return buffers(nullptr).bytes; }

  void run(int64_t sequence, char* memory) const {
    const Buffers b = buffers((float*)memory);
    const float* grad = g.grad + g.at.out(sequence);
    project(g.x + g.at.in(sequence), b.rows, b.columns, b.qkv);
    for (int64_t at = 0; at < length; at += kPanel) {
      const int64_t count = std::min<int64_t>(kPanel, length - at);
      for (int64_t i = 0; i < count; ++i) {
        const float* from = grad + (at + i) * g.at.out_step;
        if (at + i + 8 < length)
          for (int64_t c = 0; c < channels; c += 16) __builtin_prefetch(from + 8 * g.at.out_step + c);
        std::memcpy(b.rows + i * channels, from, channels * sizeof(float));
      }
      std::memset(b.rows + count * channels, 0, (kPanel - count) * channels * sizeof(float));
      transpose_panel(b.rows, channels, b.columns);
      product<Float32, 2, false>(width, g.out_back, channels * 4, 4, b.columns, kPanel * 4, channels, b.mixed + at,
                                 padded * 4);
    }
    const float* kept = g.kept + sequence * g.kept_rows() * length;
    for (int64_t h = 0; h < g.heads; ++h) head_backward(h, kept, b);
    if (g.cosine != nullptr)
      for (int64_t at = 0; at < length; at += kPanel) rotate<true>(b.qkv + at, at);
    project_back(sequence, b);
  }

 private:
  struct Buffers {
    float *qkv, *mixed;      // [3 * width][padded], [width][padded]; of the latter the gradient
    float *rows, *columns;   // a panel of positions
    float *of_q, *out;       // [head width][kPanel]; a tile of gradients of normalised rows
    HeadSums sums;
    float* rest;
    int64_t bytes;
  };

  Buffers buffers(float* base) const {
    int64_t used = 0;
    const auto take = [&](int64_t floats) {
      float* const at = base + used;
      used += round_up(floats, 16);
      return at;
    };
    Buffers b;
    b.qkv = take((3 * width + 3 * kStep) * padded), b.mixed = take((width + 3 * kStep) * padded);
    b.rows = take(channels * kPanel), b.columns = take(channels * kPanel);
    b.of_q = take((g.head_width + 3 * kStep) * kPanel), b.out = take(3 * kStep * out_row);
    b.sums.keys = take(HeadSums::floats(length, g.head_width));
    b.sums.values = take(HeadSums::floats(length, g.head_width));
    b.sums.row = row;
    b.rest = take(attend_backward_memory(g.head_width));
    b.bytes = used * sizeof(float);
    return b;
  }

  // Puts gradients of a head's queries, keys and values in their places.
  void head_backward(int64_t h, const float* kept, const Buffers& b) const {
    float* q = b.qkv + h * g.head_width * padded;
    const Head head = this->head(q);
    std::memset(b.sums.keys, 0, length * row * sizeof(float));
    std::memset(b.sums.values, 0, length * row * sizeof(float));
    for (int64_t at = 0; at < length; at += kPanel)
      if (length - at > kLanes) panel_backward<2>(head, h, at, kept, q + at, b);
      else panel_backward<1>(head, h, at, kept, q + at, b);
    float *k = q + width * padded, *v = k + width * padded;
    turn_back(b.sums.keys, k);
    turn_back(b.sums.values, v);
  }

  template <int NV>
  USSFAST_INLINE void panel_backward(const Head& head, int64_t h, int64_t at, const float* kept, float* q,
                                     const Buffers& b) const {
    const int64_t count = std::min<int64_t>(NV * kLanes, length - at);
    float* const grad = b.mixed + h * g.head_width * padded + at;
    F top[NV], dot[NV], inverse[NV];
    for (int v = 0; v < NV; ++v) {
      const int64_t from = at + v * kLanes;
      top[v] = load_some(kept + (width + h) * length + from, length - from);
      inverse[v] = load_some(kept + (width + g.heads + h) * length + from, length - from);
      dot[v] = F{};
    }
    const float* mixed = kept + h * g.head_width * length + at;
    for (int64_t c = 0; c < g.head_width; ++c)
      for (int v = 0; v < NV; ++v) {
        float* const to = grad + c * padded + v * kLanes;
        const F value = load(to) * inverse[v];
        store(to, value);
        dot[v] += value * load_some(mixed + c * length + v * kLanes, count - v * kLanes);
      }
    attend_backward<NV>(head, length, count, q, padded, grad, padded, top, dot, NoBias(), b.sums, b.of_q, b.rest);
    for (int64_t c = 0; c < g.head_width; ++c)
      for (int v = 0; v < NV; ++v) store(q + c * padded + v * kLanes, load(b.of_q + (c * NV + v) * kLanes));
  }

  // [positions][row] -> [head width][padded].
  void turn_back(const float* from, float* to) const {
    for (int64_t n = 0; n < length; n += kLanes)
      for (int64_t c = 0; c < g.head_width; c += kLanes)
        turn_block(from + n * row + c, row, length - n, kLanes, 1.0f, to + c * padded + n, padded, g.head_width - c,
                   kLanes);
  }

  // Through the projection and the norm, and beside them.
  void project_back(int64_t sequence, const Buffers& b) const {
    const int64_t in = g.at.in(sequence), out = g.at.out(sequence);
    for_each_tile(length, [&](auto size, int64_t m) __attribute__((always_inline)) {
      constexpr int MR = size;
      for (int64_t c = 0; c < channels; c += kPanel)
        tile<Float32, MR, 2, false>((const char*)(b.qkv + m), 4, padded * 4, (const char*)(g.qkv_back + c * 3 * width),
                                    kPanel * 4, 3 * width, (char*)(b.out + c), out_row * 4);
      for (int64_t r = 0; r < std::min<int64_t>(MR, length - m); ++r) {
        const int64_t place = out + (m + r) * g.at.out_step;
        normalize_row_gradient(g.x + in + (m + r) * g.at.in_step, g.norm.weight, b.out + r * out_row, g.grad + place,
                               g.grad_x + place, g.norm.groups, channels / g.norm.groups, g.norm.eps);
      }
    });
  }
};

}  // namespace
}  // namespace ussfast
