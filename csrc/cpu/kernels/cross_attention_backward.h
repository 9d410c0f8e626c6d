// Gradients of cross_attention.h with respect to queries, keys and values; bias and slope stay as they are.
#pragma once

#include "attention_backward.h"
#include "cross_attention.h"

namespace ussfast {
namespace {

struct CrossAttentionBackward : CrossAttention {
  const CrossAttentionGradArgs& g;
  const int64_t row;

  explicit CrossAttentionBackward(const CrossAttentionGradArgs& args)
      : CrossAttention(args), g(args), row(round_up(args.width, kLanes)) {}

  int64_t scratch() const { return buffers(nullptr).bytes; }

  void run(int64_t block, char* memory) const {
    const int64_t item = block * together / g.heads, first_head = block * together % g.heads;
    const Buffers b = buffers((float*)memory);
    gather(g.k, item, first_head, b.k);
    gather(g.v, item, first_head, b.v);
    std::memset(b.of_k, 0, together * b.size * sizeof(float));
    std::memset(b.of_v, 0, together * b.size * sizeof(float));
    for (int64_t i = 0; i < panels; ++i)
      for (int64_t h = 0; h < together; ++h) {
        if (g.queries - i * kPanel > kLanes) panel_backward<2>(item, first_head, h, i, b);
        else panel_backward<1>(item, first_head, h, i, b);
      }
    put_back(b.of_k, b.size, item, first_head, kScores, g.grad_k);
    put_back(b.of_v, b.size, item, first_head, 1.0f, g.grad_v);
  }

 private:
  static constexpr float kScores = 1 / kLog2e;  // queries as kernels read them have the unit of log2 in them

  struct Buffers {
    float *k, *v, *of_k, *of_v;  // of every head of the block
    float *panel, *mixed, *grad, *of_q;
    float* rest;
    int64_t size;  // of a head in of_k and of_v
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
    b.size = round_up(HeadSums::floats(g.keys, g.width), 16);
    b.k = take(together * copied), b.v = take(together * copied);
    b.of_k = take(together * b.size), b.of_v = take(together * b.size);
    b.panel = take(g.width * kPanel), b.mixed = take(g.width * kPanel), b.grad = take(g.width * kPanel);
    b.of_q = take((g.width + 3 * kStep) * kPanel);
    b.rest = take(attend_backward_memory(g.width));
    b.bytes = used * sizeof(float);
    return b;
  }

  template <int NV>
  USSFAST_INLINE void panel_backward(int64_t item, int64_t first_head, int64_t h, int64_t i, const Buffers& b) const {
    const int64_t head = first_head + h, first = i * kPanel;
    const int64_t count = std::min<int64_t>(NV * kLanes, g.queries - first), step = g.heads * g.width;
    const int64_t place = at(item, first, head), origin = at(item, 0, head);
    fetch(g.q.at(item, head), g.q.row, first + kPanel);
    fetch(g.grad + origin, step, first + kPanel);
    fetch(g.mixed + origin, step, first + kPanel);
    to_panel(g.q.at(item, head) + first * g.q.row, g.q.row, count, g.scale, b.panel);
    to_panel(g.grad + place, step, count, 1.0f, b.grad);
    to_panel(g.mixed + place, step, count, 1.0f, b.mixed);
    F top[NV], dot[NV], inverse[NV];
    for (int v = 0; v < NV; ++v) {
      top[v] = load_some(kept(item, head, 0) + first + v * kLanes, count - v * kLanes);
      inverse[v] = load_some(kept(item, head, 1) + first + v * kLanes, count - v * kLanes);
      dot[v] = F{};
    }
    for (int64_t c = 0; c < g.width; ++c)
      for (int v = 0; v < NV; ++v) {
        float* const to = b.grad + c * kPanel + v * kLanes;
        const F value = load(to) * inverse[v];
        store(to, value);
        dot[v] += value * load(b.mixed + c * kPanel + v * kLanes);
      }
    const Head keys = {b.k + h * copied, b.v + h * copied, g.width, 1, g.width, 1, g.width};
    const HeadSums of = {b.of_k + h * b.size, b.of_v + h * b.size, row};
    const auto run = [&](const auto& bias) __attribute__((always_inline)) {
      attend_backward<NV>(keys, g.keys, count, b.panel, kPanel, b.grad, kPanel, top, dot, bias, of, b.of_q, b.rest);
    };
    if (g.bias != nullptr) run(PanelBias{g.bias + (head * panels + i) * g.keys * kPanel});
    else run(NoBias());
    // As rows of NV vectors it comes, as a panel it goes.
    for (int64_t c = 0; c < g.width; ++c)
      for (int v = 0; v < NV; ++v)
        store(b.panel + c * kPanel + v * kLanes, load(b.of_q + (c * NV + v) * kLanes) * (g.scale * kScores));
    from_panel(b.panel, count, g.grad_q + place);
  }

  // Sums of the block's heads, [keys][row] each, times `scale` into [batch, keys, heads, width].
  void put_back(const float* sums, int64_t size, int64_t item, int64_t first_head, float scale, float* to) const {
    to += (item * g.keys * g.heads + first_head) * g.width;
    for (int64_t key = 0; key < g.keys; ++key, to += g.heads * g.width)
      for (int64_t h = 0; h < together; ++h)
        for (int64_t c = 0; c < g.width; c += kLanes)
          store_some(to + h * g.width + c, load(sums + h * size + key * row + c) * scale, g.width - c);
  }
};

}  // namespace
}  // namespace ussfast
