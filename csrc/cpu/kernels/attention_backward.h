// Gradients of attention.h, from what it kept: again one head and one panel of queries at a time, a block of keys after
// the other.
//
// Weights of a block of keys are computed again, lanes are queries. With the gradient of what a query mixes divided by
// the sum of its weights, weights need not be divided by it, and a query that does not exist has zeros.
#pragma once

#include "attention.h"

namespace ussfast {
namespace {

// Where gradients of a head's keys and values are added up, [keys and kStep - 1 more][row]: whole vectors of channels.
struct HeadSums {
  float *keys, *values;
  int64_t row;

  static int64_t floats(int64_t keys, int64_t width) { return (keys + kStep) * round_up(width, kLanes) + kPanel; }
};

// [width][columns, from_row apart] -> [columns][row]; columns is a whole number of vectors, and channels beyond width are
// zeros.
inline void turn_panel(const float* from, int64_t from_row, int64_t columns, int64_t width, int64_t row, float* to) {
  for (int64_t c = 0; c < width; c += kLanes)
    for (int64_t p = 0; p < columns; p += kLanes)
      turn_block(from + c * from_row + p, from_row, width - c, kLanes, 1.0f, to + p * row + c, row, kLanes, kLanes);
}

// to[keys, row] += by[keys, count queries] * of[count queries, row], whose rows of `by` are by_row floats apart.
USSFAST_INLINE void add_over_queries(int64_t keys, int64_t count, const float* by, int64_t by_row, const float* of, int64_t row,
                                     float* to) {
  for (int64_t c = 0; c < row; c += kPanel)
    if (row - c > kLanes) product<Float32, 2, true>(keys, by, by_row * 4, 4, of + c, row * 4, count, to + c, row * 4);
    else product<Float32, 1, true>(keys, by, by_row * 4, 4, of + c, row * 4, count, to + c, row * 4);
}

// Gradients of NV vectors of queries, of which `count` exist, of head and bias as in `attend`.
// grad: of what they mix, times 1 / sum of weights, [width] rows of NV vectors, grad_row apart. top: their largest scores;
// dot: the product of grad with what they mixed.
// of_q: [width and 3 * kStep more] rows of NV vectors, of a score's gradient; of: gradients of keys and values are added
// here. Those of queries and keys are with respect to scores in units of log2, but for a factor of 1 / log2(e).
// memory: attend_backward_memory(width) floats.
template <int NV, class Bias>
USSFAST_INLINE void attend_backward(const Head& head, int64_t keys, int64_t count, const float* queries, int64_t q_row,
                                    const float* grad, int64_t grad_row, const F (&top)[NV], const F (&dot)[NV],
                                    const Bias& bias, const HeadSums& of, float* of_q, float* memory) {
  constexpr int64_t kRow = NV * kLanes;
  float* weights = memory;
  float* grads = weights + (kKeys + 3 * kStep) * kRow;
  float* q_rows = grads + (kKeys + 3 * kStep) * kRow;
  float* grad_rows = q_rows + kRow * of.row;
  turn_panel(queries, q_row, kRow, head.width, of.row, q_rows);
  turn_panel(grad, grad_row, kRow, head.width, of.row, grad_rows);
  std::memset(of_q, 0, head.width * kRow * sizeof(float));
  for (int64_t key = 0; key < keys; key += kKeys) {
    const int64_t n = std::min(kKeys, keys - key);
    product<Float32, NV, false>(n, head.keys + key * head.key_row, head.key_row * 4, head.key_column * 4, queries,
                                q_row * 4, head.width, weights, kRow * 4);
    product<Float32, NV, false>(n, head.values + key * head.value_row, head.value_row * 4, head.value_column * 4, grad,
                                grad_row * 4, head.width, grads, kRow * 4);
    for (int64_t j = 0; j < n; ++j)
      for (int v = 0; v < NV; ++v) {
        const int64_t at = j * kRow + v * kLanes;
        const F weight = exp2_negative(bias(load(weights + at), key + j, v) - top[v]);
        store(weights + at, weight);
        store(grads + at, weight * (load(grads + at) - dot[v]));
      }
    // Blocks of keys are whole tiles, so that no tile adds to rows of the next.
    add_over_queries(n, count, weights, kRow, grad_rows, of.row, of.values + key * of.row);
    add_over_queries(n, count, grads, kRow, q_rows, of.row, of.keys + key * of.row);
    product<Float32, NV, true>(head.width, head.keys + key * head.key_row, head.key_column * 4, head.key_row * 4, grads,
                               kRow * 4, n, of_q, kRow * 4);
  }
}

static_assert(kKeys % (3 * kStep) == 0);

inline int64_t attend_backward_memory(int64_t width) {  // floats
  return (2 * (kKeys + 3 * kStep) + 2 * round_up(width, kLanes)) * kPanel + kPanel;
}

}  // namespace
}  // namespace ussfast
