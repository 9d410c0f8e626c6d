#include "includes.h"

#ifdef __x86_64__
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
#define USSFAST_AVX512
#define USSFAST_VNNI
#define USSFAST_TABLE kernels_avx512_vnni
#include "all.h"
#endif
