// Fixed-width vectors and the elementwise mathematics of the kernels, for whatever instruction set is being compiled.
//
// Everything in kernels/*.h except table.h is compiled once per instruction set (see avx512.cpp and its siblings),
// inside an anonymous namespace, so that no function compiled for one CPU can stand in for that of another.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace ussfast {
namespace {

#define USSFAST_INLINE inline __attribute__((always_inline))

// The including file names the set: GCC before 13 does not define its macros for a `#pragma GCC target`.
#if defined(USSFAST_AVX512)
constexpr int kLanes = 16;
constexpr int kStep = 4;  // rows of the smallest tile; the largest has three times as many (see gemm.h)
#elif defined(USSFAST_AVX2)
constexpr int kLanes = 8;
constexpr int kStep = 2;
#else
constexpr int kLanes = 4;
constexpr int kStep = 2;
#endif
constexpr int kPanel = 2 * kLanes;  // columns of a packed panel

typedef float F __attribute__((vector_size(4 * kLanes)));
typedef int32_t I __attribute__((vector_size(4 * kLanes)));
typedef uint32_t U __attribute__((vector_size(4 * kLanes)));
typedef uint8_t B __attribute__((vector_size(kLanes)));
typedef uint16_t H __attribute__((vector_size(2 * kLanes)));

template <typename V = F>
USSFAST_INLINE V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
template <typename V>
USSFAST_INLINE void store(void* to, V value) {
  std::memcpy(to, &value, sizeof(value));
}
USSFAST_INLINE F splat(float value) { return F{} + value; }
USSFAST_INLINE I splat(int32_t value) { return I{} + value; }
USSFAST_INLINE F max(F a, F b) { return a > b ? a : b; }
USSFAST_INLINE F min(F a, F b) { return a < b ? a : b; }

// Writes the first n lanes; n may be more than there are.
USSFAST_INLINE void store_some(float* to, F value, int64_t n) {
  if (n >= kLanes) return store(to, value);
  if (n > 0) std::memcpy(to, &value, n * sizeof(float));
}
USSFAST_INLINE F load_some(const float* from, int64_t n) {
  if (n >= kLanes) return load(from);
  F value = {};
  if (n > 0) std::memcpy(&value, from, n * sizeof(float));
  return value;
}

// Adding it leaves the nearest integer (ties to even) in the low bits of the mantissa, for |x| < 2^22.
constexpr float kRounder = 12582912.0f;

// 2^x to within two units of the last place; 0 to 2^-126 below -126, never infinite.
USSFAST_INLINE F exp2(F x) {
  x = min(max(x, splat(-126.0f)), splat(126.99f));
  const F shifted = x + kRounder;
  const F f = x - (shifted - kRounder);  // in [-1/2, 1/2]
  F p = f * 1.5337577e-4f + 1.3399860e-3f;
  p = p * f + 9.6185195e-3f;
  p = p * f + 5.5503290e-2f;
  p = p * f + 2.4022647e-1f;
  p = p * f + 6.9314721e-1f;
  p = p * f + 1.0f;
  return (F)((I)p + (((I)shifted) << 23));
}

// 1/x for normal x > 0.
USSFAST_INLINE F reciprocal(F x) {
#if defined(USSFAST_AVX512)
  const F y = (F)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);  // a division occupies its port for as long as twenty multiplications
  return y * (2.0f - x * y);
#else
  return 1.0f / x;
#endif
}

constexpr float kLog2e = 1.44269504088896341f;

USSFAST_INLINE F silu(F x) { return x * reciprocal(1.0f + exp2(x * -kLog2e)); }
USSFAST_INLINE F sigmoid(F x) { return reciprocal(1.0f + exp2(x * -kLog2e)); }
USSFAST_INLINE F tanh(F x) { return 1.0f - 2.0f * reciprocal(1.0f + exp2(x * (2 * kLog2e))); }

USSFAST_INLINE float largest(F v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

USSFAST_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace
}  // namespace ussfast
