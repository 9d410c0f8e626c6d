#include "includes.h"

#ifdef __x86_64__
#pragma GCC target("avx2,fma")
#define USSFAST_AVX2
#define USSFAST_TABLE kernels_avx2
#include "all.h"
#endif
