// Rows of activations through packed weights, for any number of rows: no tile reaches beyond the last, so that a single
// row, as the ends of a single stream have it, reads its weights without computing three more.
#pragma once

#include "conv_ffn.h"
#include "trunk.h"

namespace ussfast {
namespace {

// As for_each_tile (gemm.h), with tiles that fit. A row's sum does not depend on its tile.
template <class Body>
USSFAST_INLINE void for_exact_tiles(int64_t rows, Body&& tile) {
  for (int64_t m = 0; m < rows;) {
    const int64_t left = rows - m;
    const auto some = [&](auto size) __attribute__((always_inline)) {
      tile(size, m);
      m += size;
    };
    if (left >= 3 * kStep) some(std::integral_constant<int, 3 * kStep>());
    else if (left >= 2 * kStep) some(std::integral_constant<int, 2 * kStep>());
    else if (left >= kStep) some(std::integral_constant<int, kStep>());
    else if (left >= 3) some(std::integral_constant<int, 3>());
    else if (left == 2) some(std::integral_constant<int, 2>());
    else some(std::integral_constant<int, 1>());
  }
}

// As `tile` (gemm.h) for two vectors of columns, fetching the weights that follow: between two hops of a live stream
// they may have left the caches, and hardware that foresees them stops at every page.
template <class P, int MR, bool ADD>
__attribute__((noinline)) void trunk_tile(const char* a, int64_t row, const char* b, int64_t depth, char* out,
                                          int64_t out_row) {
  constexpr int64_t kFetch = 6144;  // bytes: what the largest tile reads while memory answers
  typename P::Acc acc[MR][2] = {};
  if constexpr (ADD)
    for (int r = 0; r < MR; ++r)
      for (int v = 0; v < 2; ++v) acc[r][v] = load<typename P::Acc>(out + r * out_row + v * sizeof(F));
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; ++k, a += 4, b += kPanel * 4) {
    for (int i = 0; i < kPanel * 4; i += 64) __builtin_prefetch(b + kFetch + i, 0, 2);
    const U first = load<U>(b), second = load<U>(b + sizeof(U));
#pragma GCC unroll 12
    for (int r = 0; r < MR; ++r) {
      acc[r][0] = P::dot(acc[r][0], a + r * row, first);
      acc[r][1] = P::dot(acc[r][1], a + r * row, second);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < 2; ++v) store(out + r * out_row + v * sizeof(F), acc[r][v]);
}

template <class P>
struct TrunkRows {
  using Element = typename P::Element;

  static constexpr int64_t words(int64_t depth) { return (depth + P::kGroup - 1) / P::kGroup; }
  // Bytes of packed weights.
  static int64_t panels(int64_t columns, int64_t depth) { return round_up(columns, kPanel) * words(depth) * 4; }
  // Bytes of `count` rows with room for the vectors that begin in the last.
  static int64_t bytes(int64_t rows, int64_t row) { return round_up((rows * row + kPanel) * sizeof(Element), 64); }
  static int64_t floats(int64_t rows, int64_t row) { return round_up((rows * row + kPanel) * sizeof(float), 64); }

  // out[rows, columns rounded up to panels] (+)= in * weights; strides in elements.
  template <bool ADD>
  static void map(int64_t rows, const Element* in, int64_t row, const char* weights, int64_t columns, int64_t depth,
                  float* out, int64_t out_row) {
    const int64_t step = row * sizeof(Element);
    for (int64_t c = 0; c < columns; c += kPanel, weights += words(depth) * kPanel * 4)
      for_exact_tiles(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
        trunk_tile<P, size, ADD>((const char*)in + m * step, step, weights, words(depth),
                                 (char*)(out + m * out_row + c), out_row * 4);
      });
  }

  // to[rows, units / 2] = value * SiLU(gate) of every unit; bias may be null. `inputs` of `rows` rows each lie `apart`
  // elements from each other.
  static void expand(int64_t inputs, int64_t apart, int64_t rows, const Element* in, int64_t row, const char* weights,
                     const float* bias, int64_t units, int64_t depth, Element* to) {
    const int64_t hidden = units / 2, step = row * sizeof(Element);
    F acc[3 * kStep][2];
    for (int64_t u = 0; u < units; u += kPanel, weights += words(depth) * kPanel * 4) {
      const F value_bias = bias ? load(bias + u) : F{}, gate_bias = bias ? load(bias + u + kLanes) : F{};
      for (int64_t i = 0; i < inputs; ++i)
        for_exact_tiles(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
          trunk_tile<P, size, false>((const char*)(in + i * apart) + m * step, step, weights, words(depth), (char*)acc,
                                     sizeof(acc[0]));
          Element* h = to + (i * rows + m) * hidden + u / 2;
          for (int r = 0; r < size; ++r, h += hidden) put(h, (acc[r][0] + value_bias) * silu(acc[r][1] + gate_bias));
        });
    }
  }

  // RMSNorm of one row with weights; eps inside the root. May write up to a vector beyond it.
  static USSFAST_INLINE void norm(const float* x, const float* weight, int64_t dim, float eps, Element* to) {
    F sum = {};
    for (int64_t c = 0; c < dim; c += kLanes) {
      const F value = load_some(x + c, dim - c);
      sum += value * value;
    }
    const float scale = 1.0f / std::sqrt(sum_of_lanes(sum) / float(dim) + eps);
    for (int64_t c = 0; c < dim; c += kLanes) put(to + c, load(x + c) * scale * load(weight + c));
  }
};

// to[column][row], `row` floats apart, of from[rows][columns]; both in whole squares of lanes, rows that are missing as
// zeros. Reads up to a vector beyond the columns.
inline void transposed(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to, int64_t to_row) {
  for (int64_t r = 0; r < rows; r += kLanes)
    for (int64_t c = 0; c < columns; c += kLanes) {
      F m[kLanes];
      for (int i = 0; i < kLanes; ++i) m[i] = r + i < rows ? load(from + (r + i) * from_row + c) : F{};
      transpose(m);
      for (int i = 0; i < kLanes; ++i) store(to + (c + i) * to_row + r, m[i]);
    }
}

}  // namespace
}  // namespace ussfast
