#include "block.cuh"

namespace ussfast {
namespace {

__global__ void __launch_bounds__(kMostThreads) framed_stft_kernel(const __grid_constant__ FramedStftArgs args) {
  extern __shared__ Complex memory[];
  framed_stft_frame(Block(), args, blockIdx.x, memory);
}

}  // namespace

cudaError_t launch_framed_stft(const FramedStftArgs& args, cudaStream_t stream) {
  return launch_blocks(framed_stft_kernel, args, args.rows * args.frames, framed_stft_memory(args.plan), stream);
}

}  // namespace ussfast
