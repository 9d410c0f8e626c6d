// The matrix product that all kernels share: rows of A, broadcast value by value, times packed panels of B.
//
// A panel holds kPanel columns of B, k-slowest: [depth][kPanel], where one element is 4 bytes: one float, two
// bfloat16 or four int8 along k. A is read in place with any row and column stride, so convolutions need no gathered
// copy (the row stride is smaller than the depth), and transposed operands no transposition.
#pragma once

#include "vec.h"

namespace ussfast {
namespace {

struct Float32 {
  using Acc = F;
  using Element = float;
  static constexpr int kGroup = 1;  // elements of A and B along k per 4 bytes
  static USSFAST_INLINE F dot(F acc, const char* a, U b) {
    float value;
    std::memcpy(&value, a, 4);
    return acc + value * (F)b;
  }
};

struct Bfloat16 {
  using Acc = F;
  using Element = uint16_t;
  static constexpr int kGroup = 2;
  static USSFAST_INLINE F dot(F acc, const char* a, U b) {
    uint32_t pair;
    std::memcpy(&pair, a, 4);
#if defined(USSFAST_BF16)
    return (F)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
#else
    const U both = U{} + pair;
    acc = acc + (F)(both << 16) * (F)(b << 16);
    return acc + (F)(both & 0xffff0000u) * (F)(b & 0xffff0000u);
#endif
  }
};

// Unsigned activations (zero at 128) times signed weights, exact in int32.
struct Int8 {
  using Acc = I;
  using Element = uint8_t;
  static constexpr int kGroup = 4;
  static USSFAST_INLINE I dot(I acc, const char* a, U b) {
    uint32_t four;
    std::memcpy(&four, a, 4);
#if defined(USSFAST_VNNI)
    return (I)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32(four), (__m512i)b);
#else
    const I w = (I)b;
    acc += int32_t(four & 255) * (w << 24 >> 24);
    acc += int32_t(four >> 8 & 255) * (w << 16 >> 24);
    acc += int32_t(four >> 16 & 255) * (w << 8 >> 24);
    return acc + int32_t(four >> 24) * (w >> 24);
#endif
  }
};

// The same with the weights broadcast and the activations as panel.
struct Int8Weights : Int8 {
  static USSFAST_INLINE I dot(I acc, const char* a, U b) {
    uint32_t four;
    std::memcpy(&four, a, 4);
#if defined(USSFAST_VNNI)
    return (I)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)b, _mm512_set1_epi32(four));
#else
    acc += (I)(b & 255u) * int32_t(int8_t(four));
    acc += (I)(b >> 8 & 255u) * int32_t(int8_t(four >> 8));
    acc += (I)(b >> 16 & 255u) * int32_t(int8_t(four >> 16));
    return acc + (I)(b >> 24) * int32_t(int8_t(four >> 24));
#endif
  }
};

// acc[MR][NV] += A[MR rows, depth] * B[depth, NV vectors]; strides in bytes.
template <class P, int MR, int NV>
USSFAST_INLINE void accumulate(typename P::Acc (&acc)[MR][NV], const char* a, int64_t row, int64_t column, const char* b,
                               int64_t b_row, int64_t depth) {
  // Four steps at a time: with two loads and three instructions per row, one step leaves no room for a loop's own.
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; ++k, a += column, b += b_row) {
    U values[NV];
    for (int v = 0; v < NV; ++v) values[v] = load<U>(b + v * sizeof(U));
#pragma GCC unroll 12
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) acc[r][v] = P::dot(acc[r][v], a + r * row, values[v]);
  }
}

// One tile of a product, out[MR rows, NV vectors] (+)= A * B; rows of out are out_row bytes apart. Never inlined: the
// accumulators need all registers, and constants of the code around would be kept in some of them.
template <class P, int MR, int NV, bool ADD>
__attribute__((noinline)) void tile(const char* a, int64_t row, int64_t column, const char* b, int64_t b_row,
                                    int64_t depth, char* out, int64_t out_row) {
  typename P::Acc acc[MR][NV] = {};
  if constexpr (ADD)
    for (int r = 0; r < MR; ++r)
      for (int v = 0; v < NV; ++v) acc[r][v] = load<typename P::Acc>(out + r * out_row + v * sizeof(F));
  accumulate<P, MR, NV>(acc, a, row, column, b, b_row, depth);
#pragma GCC unroll 12
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < NV; ++v) store(out + r * out_row + v * sizeof(F), acc[r][v]);
}

// Runs body(integral_constant<MR>, m) over all rows, in the largest tiles that fit. The last tile may reach up to
// kStep - 1 rows beyond `rows`.
template <class Body>
USSFAST_INLINE void for_each_tile(int64_t rows, Body&& tile) {
  for (int64_t m = 0; m < rows;) {
    if (rows - m > 2 * kStep) {
      tile(std::integral_constant<int, 3 * kStep>(), m);
      m += 3 * kStep;
    } else if (rows - m > kStep) {
      tile(std::integral_constant<int, 2 * kStep>(), m);
      m += 2 * kStep;
    } else {
      tile(std::integral_constant<int, kStep>(), m);
      m += kStep;
    }
  }
}

// out[rows, NV vectors] (+)= A * B for all rows. A and out must have room for kStep - 1 rows more.
template <class P, int NV, bool ADD>
USSFAST_INLINE void product(int64_t rows, const void* a, int64_t row, int64_t column, const void* b, int64_t b_row,
                            int64_t depth, void* out, int64_t out_row) {
  for_each_tile(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
    tile<P, size, NV, ADD>((const char*)a + m * row, row, column, (const char*)b, b_row, depth,
                           (char*)out + m * out_row, out_row);
  });
}

}  // namespace
}  // namespace ussfast
