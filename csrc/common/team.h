// What code that runs on a GPU and on the host is written with: who shares the work, complex numbers, short floats.
//
// A team is a few threads that share one piece of work: it has rank(), size() and sync(), and calls sync() between
// writing what others read. On a GPU it is a block; on the host one thread, or several where tests look for a missing
// sync().
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define USSFAST_HD __host__ __device__ __forceinline__
#define USSFAST_UNROLL _Pragma("unroll")
#else
#define USSFAST_HD inline
#define USSFAST_UNROLL _Pragma("GCC unroll 8")
#endif

namespace ussfast {

struct OneThread {
  USSFAST_HD int rank() const { return 0; }
  USSFAST_HD int size() const { return 1; }
  USSFAST_HD void sync() const {}
};

// One access of 8 bytes, not two of 4: tensors of pairs must be aligned to it.
struct alignas(8) Complex {
  float re, im;
};

USSFAST_HD Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
USSFAST_HD Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
USSFAST_HD Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
USSFAST_HD Complex operator*(float a, Complex b) { return {a * b.re, a * b.im}; }
USSFAST_HD Complex conj(Complex a) { return {a.re, -a.im}; }
USSFAST_HD Complex times_i(Complex a) { return {-a.im, a.re}; }
USSFAST_HD Complex swapped(Complex a) { return {a.im, a.re}; }

// Two bfloat16 as they lie in memory: the upper halves of float32.
struct alignas(4) ShortPair {
  uint16_t re, im;
};

USSFAST_HD float widened(uint16_t upper) {
  const uint32_t bits = uint32_t(upper) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
USSFAST_HD Complex wide(ShortPair a) { return {widened(a.re), widened(a.im)}; }
USSFAST_HD Complex wide(Complex a) { return a; }

}  // namespace ussfast
