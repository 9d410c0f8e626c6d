// Fixed-width vectors and the elementwise mathematics of the kernels, for whatever instruction set is being compiled.
//
// Everything in kernels/*.h except table.h is compiled once per instruction set (see avx512.cpp and its siblings),
// inside an anonymous namespace, so that no function compiled for one CPU can stand in for that of another.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

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
// A comparison and a choice would be two instructions.
#if defined(USSFAST_AVX512)
USSFAST_INLINE F max(F a, F b) { return (F)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b); }
USSFAST_INLINE F min(F a, F b) { return (F)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b); }
#elif defined(USSFAST_AVX2)
USSFAST_INLINE F max(F a, F b) { return (F)_mm256_max_ps((__m256)a, (__m256)b); }
USSFAST_INLINE F min(F a, F b) { return (F)_mm256_min_ps((__m256)a, (__m256)b); }
#else
USSFAST_INLINE F max(F a, F b) { return a > b ? a : b; }
USSFAST_INLINE F min(F a, F b) { return a < b ? a : b; }
#endif

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

// Loads the first n lanes, again and again: n may be more than there are. Other lanes are 0, and nothing is read there.
class First {
 public:
#if defined(USSFAST_AVX512)
  USSFAST_INLINE explicit First(int64_t n) : some_(n >= kLanes ? 0xffff : (1u << n) - 1) {}
  USSFAST_INLINE F load(const float* from) const { return (F)_mm512_maskz_loadu_ps(some_, from); }
 private:
  __mmask16 some_;
#elif defined(USSFAST_AVX2)
  USSFAST_INLINE explicit First(int64_t n) : some_(I{0, 1, 2, 3, 4, 5, 6, 7} < int32_t(n)) {}
  USSFAST_INLINE F load(const float* from) const { return (F)_mm256_maskload_ps(from, (__m256i)some_); }
 private:
  I some_;
#else
  USSFAST_INLINE explicit First(int64_t n) : some_(n) {}
  USSFAST_INLINE F load(const float* from) const { return load_some(from, some_); }
 private:
  int64_t some_;
#endif
};

// Adding it leaves the nearest integer (ties to even) in the low bits of the mantissa, for |x| < 2^22.
constexpr float kRounder = 12582912.0f;

// 2^x for x <= 0 to within two units of the last place; at most 2^-126 below -126. With AVX-512 it is right for all x.
USSFAST_INLINE F exp2_negative(F x) {
#if defined(USSFAST_AVX512)
  const F f = (F)_mm512_maskz_reduce_ps(0xffff, (__m512)x, _MM_FROUND_TO_NEG_INF);  // x - floor(x)
  F p = f * 1.87757665e-03f + 8.98934016e-03f;
  p = p * f + 5.58263180e-02f;
  p = p * f + 2.40153617e-01f;
  p = p * f + 6.93153073e-01f;
  p = p * f + 9.99999925e-01f;
  return (F)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)x);  // p * 2^floor(x)
#else
  x = max(x, splat(-126.0f));
  const F shifted = x + kRounder;
  const F f = x - (shifted - kRounder);  // in [-1/2, 1/2]
  F p = f * 1.3276472e-3f + 9.6755413e-3f;
  p = p * f + 5.5507133e-2f;
  p = p * f + 2.4022120e-1f;
  p = p * f + 6.9314697e-1f;
  p = p * f + 1.00000007f;
  return (F)((I)p + (((I)shifted) << 23));
#endif
}
// The same for all x, largest 2^126.99.
USSFAST_INLINE F exp2(F x) { return exp2_negative(min(x, splat(126.99f))); }

// 1/x for normal x > 0.
USSFAST_INLINE F reciprocal(F x) {
#if defined(USSFAST_AVX512)
  const F y = (F)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);  // a division occupies its port for as long as twenty multiplications
  return y * (2.0f - x * y);
#else
  return 1.0f / x;
#endif
}

// The low bytes, or halves, of integers. Compilers take general conversions apart into single elements.
USSFAST_INLINE B low_bytes(U x) {
#if defined(USSFAST_AVX512)
  return (B)_mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)x);
#else
  typedef uint8_t Bytes __attribute__((vector_size(4 * kLanes)));
  const Bytes all = (Bytes)x;
  B low;
  for (int i = 0; i < kLanes; ++i) low[i] = all[4 * i];
  return low;
#endif
}
USSFAST_INLINE H low_halves(U x) {
#if defined(USSFAST_AVX512)
  return (H)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)x);
#else
  return __builtin_convertvector(x, H);
#endif
}

constexpr float kLog2e = 1.44269504088896341f;

USSFAST_INLINE F silu(F x) { return x * reciprocal(1.0f + exp2(x * -kLog2e)); }
// To 14 bits: enough in front of bfloat16 and int8.
USSFAST_INLINE F silu_coarse(F x) {
#if defined(USSFAST_AVX512)
  return x * (F)_mm512_maskz_rcp14_ps(0xffff, (__m512)(1.0f + exp2_negative(x * -kLog2e)));
#else
  return silu(x);
#endif
}
USSFAST_INLINE F sigmoid(F x) { return reciprocal(1.0f + exp2(x * -kLog2e)); }
USSFAST_INLINE F tanh(F x) { return 1.0f - 2.0f * reciprocal(1.0f + exp2(x * (2 * kLog2e))); }

// n values times scale, rounded to the nearest integer, as bytes with their zero at 128.
USSFAST_INLINE void quantize(const float* from, int64_t n, float scale, uint8_t* to) {
  for (int64_t c = 0; c < n; c += kLanes) {
    const B bytes = low_bytes((U)(load_some(from + c, n - c) * scale + (kRounder + 128)));
    n - c >= kLanes ? store(to + c, bytes) : (void)std::memcpy(to + c, &bytes, n - c);
  }
}

USSFAST_INLINE F sqrt(F x) {
#if defined(USSFAST_AVX512)
  return (F)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif defined(USSFAST_AVX2)
  return (F)_mm256_sqrt_ps((__m256)x);
#else
  F y;
  for (int i = 0; i < kLanes; ++i) y[i] = std::sqrt(x[i]);
  return y;
#endif
}

USSFAST_INLINE F magnitude(F x) { return (F)((U)x & 0x7fffffffu); }

USSFAST_INLINE float largest(F v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

// m[i][j] <-> m[j][i] of kLanes vectors.
template <int S, size_t... L>
USSFAST_INLINE void swap_blocks(F (&m)[kLanes], std::index_sequence<L...>) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & S) continue;
    const F a = m[i], b = m[i + S];
    m[i] = __builtin_shufflevector(a, b, (L & S ? int(L) - S + kLanes : int(L))...);
    m[i + S] = __builtin_shufflevector(a, b, (L & S ? int(L) + kLanes : int(L) + S)...);
  }
}
USSFAST_INLINE void transpose(F (&m)[kLanes]) {
  constexpr auto lanes = std::make_index_sequence<kLanes>();
  swap_blocks<1>(m, lanes);
  swap_blocks<2>(m, lanes);
  if constexpr (kLanes > 4) swap_blocks<(kLanes > 4 ? 4 : 1)>(m, lanes);
  if constexpr (kLanes > 8) swap_blocks<(kLanes > 8 ? 8 : 1)>(m, lanes);
}

USSFAST_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace
}  // namespace ussfast
