// Which instruction set the CPU kernels use: decided once, at run time, here and nowhere else.
#pragma once

// A kernel writes its loop once, as a USSFAST_INLINE template, and wraps it in one function per target:
// the compiler vectorises every wrapper for its own instruction set, and the file itself is compiled for the
// baseline, so that loading it on an older CPU is safe.
#define USSFAST_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__)
#define USSFAST_X86 1
#define USSFAST_AVX2 __attribute__((target("avx2,fma")))
#define USSFAST_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")))
#endif

namespace ussfast {

enum class Isa { generic, avx2, avx512 };

// The best set this CPU has, or the one that USSFAST_FORCE_ISA=generic|avx2|avx512 names.
// Throws c10::Error for an unknown name and for a set that this CPU lacks.
Isa isa();

template <typename Fn>
Fn pick([[maybe_unused]] Fn generic, [[maybe_unused]] Fn avx2, [[maybe_unused]] Fn avx512) {
  switch (isa()) {
    case Isa::avx512: return avx512;
    case Isa::avx2: return avx2;
    default: return generic;
  }
}

}  // namespace ussfast
