// RMSNorm -> query, key, value -> rotation -> attention -> projection -> residual, one sequence at a time.
//
// A sequence's queries, keys and values lie transposed in scratch memory, [3 * width][positions]: as products of
// the weights with panels of transposed input they come out that way, rotation of channel pairs is then elementwise,
// and so is everything in the softmax (see attention.h). The attention's result takes the place of the queries.
#pragma once

#include "attention.h"
#include "norm.h"

namespace ussfast {
namespace {

// [kPanel positions][channels] -> [channels][kPanel positions].
inline void transpose_panel(const float* rows, int64_t channels, float* to) {
  F m[kLanes];
  for (int64_t c = 0; c < channels; c += kLanes)
    for (int64_t p = 0; p < kPanel; p += kLanes) {
      for (int i = 0; i < kLanes; ++i) m[i] = load_some(rows + (p + i) * channels + c, channels - c);
      transpose(m);
      for (int i = 0; i < std::min<int64_t>(kLanes, channels - c); ++i) store(to + (c + i) * kPanel + p, m[i]);
    }
}

struct LocoformerAttention {
  const AttentionArgs& a;
  const int64_t channels, width, padded;

  explicit LocoformerAttention(const AttentionArgs& args)
      : a(args), channels(a.at.channels), width(a.heads * a.head_width), padded(a.padded(kPanel)) {}

  int64_t blocks() const { return a.at.count(); }  // one per sequence
  int64_t scratch() const {
    const int64_t qkv = (3 * width + 3 * kStep) * padded;
    return 4 * (qkv + 2 * channels * kPanel + attend_memory(a.head_width)) + 64;
  }

  void run(int64_t sequence, char* memory) const {
    float* qkv = (float*)memory;
    float* rows = qkv + (3 * width + 3 * kStep) * padded;
    float* columns = rows + channels * kPanel;
    float* rest = columns + channels * kPanel;
    const float* x = a.x + a.at.in(sequence);
    const int64_t length = a.at.length;
    project(x, rows, columns, qkv);

    float* const kept = a.kept == nullptr ? nullptr : a.kept + sequence * a.kept_rows() * length;
    for (int64_t h = 0; h < a.heads; ++h) {
      float* q = qkv + h * a.head_width * padded;
      const Head head = this->head(q);
      for (int64_t at = 0; at < length; at += kPanel) {
        const auto run = [&](auto vectors) __attribute__((always_inline)) {
          constexpr int NV = vectors;
          float scores[2 * NV * kLanes];
          attend<NV>(head, length, q + at, padded, NoBias(), q + at, padded, rest, kept == nullptr ? nullptr : scores);
          if (kept != nullptr)
            for (int part = 0; part < 2; ++part)
              std::memcpy(kept + (width + part * a.heads + h) * length + at, scores + part * NV * kLanes,
                          std::min<int64_t>(NV * kLanes, length - at) * sizeof(float));
        };
        if (length - at > kLanes) run(std::integral_constant<int, 2>());
        else run(std::integral_constant<int, 1>());
      }
    }
    if (kept != nullptr)
      for (int64_t r = 0; r < width; ++r) std::memcpy(kept + r * length, qkv + r * padded, length * sizeof(float));

    float* y = a.y + a.at.out(sequence);
    F acc[3 * kStep][2];
    for (int64_t c = 0; c < channels; c += kPanel)
      for_each_tile(length, [&](auto size, int64_t m) __attribute__((always_inline)) {
        constexpr int MR = size;
        tile<Float32, MR, 2, false>((const char*)(qkv + m), 4, padded * 4, (const char*)(a.out + c * width), kPanel * 4,
                                    width, (char*)acc, 2 * sizeof(F));
        for (int64_t r = 0; r < std::min<int64_t>(MR, length - m); ++r) {
          if (c == 0) fetch(x, m + r + MR);
          for (int v = 0; v < 2; ++v) {
            const int64_t from = c + v * kLanes, left = channels - from;
            const F old = load_some(x + (m + r) * a.at.in_step + from, left);
            store_some(y + (m + r) * a.at.out_step + from, acc[r][v] + old, left);
          }
        }
      });
  }

 protected:
  // The head whose queries are at q.
  Head head(const float* q) const {
    const float *k = q + width * padded, *v = k + width * padded;
    return {k, v, 1, padded, 1, padded, a.head_width};
  }

  // Rotated queries, keys and values of a sequence. rows, columns: memory for a panel of positions each.
  void project(const float* x, float* rows, float* columns, float* qkv) const {
    const int64_t length = a.at.length;
    for (int64_t at = 0; at < length; at += kPanel) {
      const int64_t count = std::min<int64_t>(kPanel, length - at);
      for (int64_t i = 0; i < count; ++i) {
        fetch(x, at + i + kAhead);
        normalize_row(x + (at + i) * a.at.in_step, a.norm.weight, rows + i * channels, a.norm.groups,
                      channels / a.norm.groups, a.norm.eps);
      }
      std::memset(rows + count * channels, 0, (kPanel - count) * channels * sizeof(float));
      if (a.qkv_scale == nullptr) {
        transpose_panel(rows, channels, columns);
        product<Float32, 2, false>(3 * width, a.qkv, channels * 4, 4, columns, kPanel * 4, channels, qkv + at,
                                   padded * 4);
      } else {
        project_int8(rows, columns, qkv + at);
      }
      if (a.cosine != nullptr) rotate(qkv + at, at);
    }
  }

  // Rotates the channel pairs of queries and keys (adjacent in memory: 2 * width rows) of a panel of positions, or turns
  // them back.
  template <bool BACK = false>
  void rotate(float* qk, int64_t at) const {
    for (int64_t pair = 0; pair < width; ++pair) {
      const int64_t i = pair % (a.head_width / 2);
      float *even = qk + 2 * pair * padded, *odd = even + padded;
      for (int v = 0; v < 2; ++v, even += kLanes, odd += kLanes) {
        const F cosine = load(a.cosine + i * padded + at + v * kLanes);
        const F sine = BACK ? -load(a.sine + i * padded + at + v * kLanes) : load(a.sine + i * padded + at + v * kLanes);
        const F e = load(even), o = load(odd);
        store(even, e * cosine - o * sine);
        store(odd, o * cosine + e * sine);
      }
    }
  }

 private:
  static constexpr int kAhead = 8;  // rows fetched before they are needed: along time they are pages apart

  void fetch(const float* x, int64_t position) const {
    if (position < a.at.length)
      for (int64_t c = 0; c < channels; c += 16) __builtin_prefetch(x + position * a.at.in_step + c);
  }

  // Queries, keys and values of a panel of normalised rows, in int8. A normalised value is at most the root of its
  // group's width: the scale needs no search.
  void project_int8(float* rows, float* columns, float* qkv) const {
    const int64_t words = (channels + 3) / 4;
    const float scale = 127.0f / std::sqrt(float(channels / a.norm.groups));
    for (int64_t p = 0; p < kPanel; ++p)  // in place: bytes end before the next row of floats begins
      quantize(rows + p * channels, channels, scale, (uint8_t*)(rows + p * words));
    transpose_panel(rows, words, columns);  // four bytes move like one float
    I acc[3 * kStep][2];
    for_each_tile(3 * width, [&](auto size, int64_t m) __attribute__((always_inline)) {
      tile<Int8Weights, size, 2, false>(a.qkv + m * words * 4, words * 4, 4, (const char*)columns, kPanel * 4, words,
                                        (char*)acc, sizeof(acc[0]));
      for (int r = 0; r < size; ++r)
        for (int v = 0; v < 2; ++v)
          store(qkv + (m + r) * padded + v * kLanes,
                __builtin_convertvector(acc[r][v] + a.qkv_zero[m + r], F) * a.qkv_scale[m + r]);
    });
  }
};

}  // namespace
}  // namespace ussfast
