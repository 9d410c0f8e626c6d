// Softmax attention without a score matrix in memory, for one head and one panel of queries at a time.
//
// Everything is transposed: lanes are queries. Scores of a block of keys are one product (keys broadcast, queries as
// panel), maxima and sums run over lanes without a reduction, and the values' product again broadcasts. Scores are
// in units of log2, so that the softmax is 2^x.
#pragma once

#include <type_traits>

#include "gemm.h"
#include "table.h"

namespace ussfast {
namespace {

constexpr int64_t kKeys = 24 * kStep;  // keys per block: their scores stay in the first-level cache
constexpr float kHidden = -1e30f;      // not -inf: a block of keys that are all hidden must not give NaN

// Rows r < rows and columns c < columns of `from`, times scale, become to[c][r]: up to kLanes of each. What is not there is
// zero; to_rows and to_columns are how much of the result is written. Not inlined: it needs all registers.
__attribute__((noinline)) inline void turn_block(const float* from, int64_t from_row, int64_t rows, int64_t columns,
                                                 float scale, float* to, int64_t to_row, int64_t to_rows,
                                                 int64_t to_columns) {
  F m[kLanes];
  if (rows >= kLanes && columns >= kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) m[i] = load(from + i * from_row) * scale;
  } else {
    for (int i = 0; i < kLanes; ++i) m[i] = i < rows ? load_some(from + i * from_row, columns) * scale : F{};
  }
  transpose(m);
  if (to_rows >= kLanes && to_columns >= kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(to + i * to_row, m[i]);
  } else {
    for (int i = 0; i < std::min<int64_t>(kLanes, to_rows); ++i) store_some(to + i * to_row, m[i], to_columns);
  }
}

// One head. Element (i, c) of keys lies at keys[i * key_row + c * key_column], of values at
// values[i * value_row + c * value_column].
struct Head {
  const float *keys, *values;
  int64_t key_row, key_column, value_row, value_column;
  int64_t width;  // of the head
};

// Bias that adds nothing; others have kChanges true.
struct NoBias {
  static constexpr bool kChanges = false;
  USSFAST_INLINE F operator()(F score, int64_t, int) const { return score; }
};

// Attention of NV vectors of queries to `keys` keys.
// queries: [width] rows of NV vectors, q_row floats apart; out: the same shape, out_row apart, may be the same memory.
// bias(score, key, v) gives the score with its bias; memory: attend_memory(width) floats.
// kept: of each query its largest score, then (after NV vectors) of each 1 / sum of its weights; may be null.
template <int NV, class Bias>
USSFAST_INLINE void attend(const Head& head, int64_t keys, const float* queries, int64_t q_row, const Bias& bias,
                           float* out, int64_t out_row, float* memory, float* kept = nullptr) {
  constexpr int64_t kRow = NV * kLanes;
  float* scores = memory;
  float* mixed = scores + (kKeys + 3 * kStep) * kRow;
  std::memset(mixed, 0, head.width * kRow * sizeof(float));
  F top[NV], sum[NV];
  for (int v = 0; v < NV; ++v) {
    top[v] = splat(kHidden);
    sum[v] = splat(0.0f);
  }
  for (int64_t key = 0; key < keys; key += kKeys) {
    const int64_t n = std::min(kKeys, keys - key);
    F best[NV];
    for (int v = 0; v < NV; ++v) best[v] = top[v];
    product<Float32, NV, false>(n, head.keys + key * head.key_row, head.key_row * 4, head.key_column * 4, queries,
                                q_row * 4, head.width, scores, kRow * 4);
    for (int64_t j = 0; j < n; ++j)
      for (int v = 0; v < NV; ++v) {
        float* at = scores + j * kRow + v * kLanes;
        const F score = bias(load(at), key + j, v);
        if constexpr (Bias::kChanges) store(at, score);
        best[v] = max(best[v], score);
      }
    F fade[NV], total[NV];  // copies, so that the loop has them in registers
    for (int v = 0; v < NV; ++v) {
      fade[v] = exp2_negative(top[v] - best[v]);
      total[v] = sum[v] * fade[v];
    }
    for (int64_t j = 0; j < n; ++j)
      for (int v = 0; v < NV; ++v) {
        float* at = scores + j * kRow + v * kLanes;
        const F weight = exp2_negative(load(at) - best[v]);
        total[v] += weight;
        store(at, weight);
      }
    for (int v = 0; v < NV; ++v) {
      top[v] = best[v];
      sum[v] = total[v];
    }
    for (int64_t c = 0; c < head.width; ++c)
      for (int v = 0; v < NV; ++v) {
        float* at = mixed + c * kRow + v * kLanes;
        store(at, load(at) * fade[v]);
      }
    product<Float32, NV, true>(head.width, head.values + key * head.value_row, head.value_column * 4,
                               head.value_row * 4, scores, kRow * 4, n, mixed, kRow * 4);
  }
  for (int v = 0; v < NV; ++v) sum[v] = reciprocal(sum[v]);
  if (kept != nullptr)
    for (int v = 0; v < NV; ++v) {
      store(kept + v * kLanes, top[v]);
      store(kept + (NV + v) * kLanes, sum[v]);
    }
  for (int64_t c = 0; c < head.width; ++c)
    for (int v = 0; v < NV; ++v) store(out + c * out_row + v * kLanes, load(mixed + c * kRow + v * kLanes) * sum[v]);
}

inline int64_t attend_memory(int64_t width) { return (kKeys + 3 * kStep + width + 3 * kStep) * kPanel; }  // floats

}  // namespace
}  // namespace ussfast
