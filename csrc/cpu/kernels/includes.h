// Everything from outside that kernels use. It must be compiled for the baseline, before an instruction set is
// chosen: an inline function of the standard library that is compiled for AVX-512 could otherwise be the copy that the
// linker keeps for everybody.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "table.h"
