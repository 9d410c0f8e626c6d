// Attention of one sequence to another with a bias per head, one item of the batch at a time.
//
// Keys and values of every head are copied next to each other: their own rows have other heads between them, and
// tiles read a little beyond the last key. Queries are transposed panel by panel, as attention.h wants them.
#pragma once

#include "attention.h"

namespace ussfast {
namespace {

// Bias in units of log2, [keys][kPanel queries].
struct PanelBias {
  static constexpr bool kChanges = true;
  const float* panel;
  USSFAST_INLINE F operator()(F score, int64_t key, int v) const {
    return score + load(panel + key * kPanel + v * kLanes);
  }
};

struct CrossAttention {
  const CrossAttentionArgs& a;
  const int64_t panels, together, copied;  // copied: floats of a copy of one head's keys or values, whole cache lines

  explicit CrossAttention(const CrossAttentionArgs& args)
      : a(args),
        panels((a.queries + kPanel - 1) / kPanel),
        together(a.batch < kFewItems ? 1 : a.heads),
        copied(round_up((a.keys + kStep) * a.width + kLanes, 16)) {}

  int64_t blocks() const { return a.batch * (a.heads / together); }
  int64_t scratch() const { return 4 * (2 * together * copied + a.width * kPanel + attend_memory(a.width)); }

  void run(int64_t block, char* memory) const {
    const int64_t item = block * together / a.heads, first_head = block * together % a.heads;
    float* k = (float*)memory;
    float* v = k + together * copied;
    float* panel = v + together * copied;
    float* rest = panel + a.width * kPanel;
    gather(a.k, item, first_head, k);
    gather(a.v, item, first_head, v);
    for (int64_t i = 0; i < panels; ++i)
      for (int64_t h = 0; h < together; ++h) {
        const int64_t head = first_head + h, first = i * kPanel, count = std::min<int64_t>(kPanel, a.queries - first);
        fetch(a.q.at(item, head), a.q.row, first + kPanel);
        const Head keys = {k + h * copied, v + h * copied, a.width, 1, a.width, 1, a.width};
        const auto mix = [&](const auto& bias) __attribute__((always_inline)) {
          const auto run = [&](auto vectors) __attribute__((always_inline)) {
            constexpr int NV = vectors;
            float kept[2 * NV * kLanes];
            attend<NV>(keys, a.keys, panel, kPanel, bias, panel, kPanel, rest, a.kept == nullptr ? nullptr : kept);
            if (a.kept != nullptr)
              for (int part = 0; part < 2; ++part)
                std::memcpy(this->kept(item, head, part) + first, kept + part * NV * kLanes, count * sizeof(float));
          };
          if (count > kLanes) run(std::integral_constant<int, 2>());
          else run(std::integral_constant<int, 1>());
        };
        to_panel(a.q.at(item, head) + first * a.q.row, a.q.row, count, a.scale, panel);
        if (a.bias != nullptr) mix(PanelBias{a.bias + (head * panels + i) * a.keys * kPanel});
        else mix(NoBias());
        from_panel(panel, count, a.y + at(item, first, head));
      }
  }

 protected:
  // Where a query's result lies.
  int64_t at(int64_t item, int64_t query, int64_t head) const {
    return ((item * a.queries + query) * a.heads + head) * a.width;
  }
  float* kept(int64_t item, int64_t head, int part) const {
    return a.kept + ((item * a.heads + head) * 2 + part) * a.queries;
  }

  // With fewer items than this, every head is a block, so that all threads have one; otherwise memory is read in order,
  // all heads of an item at once.
  static constexpr int64_t kFewItems = 16;

  // Whole vectors are written, each over the end of its row: the next row covers it, and the last has room.
  void gather(const HeadRows& rows, int64_t item, int64_t head, float* to) const {
    const float* from = rows.at(item, head);
    for (int64_t i = 0; i < a.keys; ++i, from += rows.row, to += a.width)
      for (int64_t h = 0; h < together; ++h)
        for (int64_t c = 0; c < a.width; c += kLanes)
          store(to + h * copied + c, load_some(from + h * rows.head + c, a.width - c));
  }

  // Asks for the rows of a panel of queries that is next: heads lie between them, and no hardware foresees a new row.
  void fetch(const float* rows, int64_t row, int64_t first) const {
    for (int64_t i = first; i < std::min(first + kPanel, a.queries); ++i)
      for (int64_t c = 0; c < a.width; c += 16) __builtin_prefetch(rows + i * row + c);
  }

  // [count queries][width] -> [width][kPanel queries], times `scale`; other columns are zeros. row: from one to the next.
  void to_panel(const float* rows, int64_t row, int64_t count, float scale, float* panel) const {
    for (int64_t c = 0; c < a.width; c += kLanes)
      for (int64_t p = 0; p < kPanel; p += kLanes)
        turn_block(rows + p * row + c, row, count - p, a.width - c, scale, panel + c * kPanel + p, kPanel, a.width - c,
                   kLanes);
  }

  void from_panel(const float* panel, int64_t count, float* rows) const {
    const int64_t row = a.heads * a.width;
    for (int64_t c = 0; c < a.width; c += kLanes)
      for (int64_t p = 0; p < count; p += kLanes)
        turn_block(panel + c * kPanel + p, kPanel, a.width - c, kLanes, 1.0f, rows + p * row + c, row, count - p,
                   a.width - c);
  }
};

}  // namespace
}  // namespace ussfast
