// The CUDA kernels, free of PyTorch: plain pointers, sizes and steps in, the first error of the runtime out.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/framed_stft.h"
#include "../common/masked_istft.h"

namespace ussfast {

// All pointers are of the current device, and y is written there. Sizes are those that the structs describe, none of
// them zero; `run` of a MaskedIstftArgs is chosen here.
cudaError_t launch_framed_stft(const FramedStftArgs& args, cudaStream_t stream);
cudaError_t launch_masked_istft(MaskedIstftArgs args, bool bfloat16, cudaStream_t stream);

}  // namespace ussfast
