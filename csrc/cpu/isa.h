// Which instruction set the CPU kernels use: decided once, at run time, here and nowhere else.
#pragma once

#include "kernels/table.h"

namespace ussfast {

// The kernels of the best set this CPU has, or of the one that USSFAST_FORCE_ISA names
// (generic, avx2, avx512, avx512_vnni or avx512_bf16).
// Throws c10::Error for an unknown name and for a set that this CPU lacks.
const Kernels& kernels();

}  // namespace ussfast
