#include "block.cuh"

namespace ussfast {
namespace {

// Blocks that a multiprocessor holds at a time, by their shared memory for 2048 samples.
constexpr int64_t kBlocksAtOnce = 8;

template <class Pair>
__global__ void __launch_bounds__(kMostThreads) masked_istft_kernel(const __grid_constant__ MaskedIstftArgs args) {
  extern __shared__ Complex memory[];
  masked_istft_run_of<Pair>(Block(), args, blockIdx.x, memory);
}

}  // namespace

cudaError_t launch_masked_istft(MaskedIstftArgs args, bool bfloat16, cudaStream_t stream) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  args.run = masked_istft_run(args, kBlocksAtOnce * multiprocessors);
  return launch_blocks(bfloat16 ? masked_istft_kernel<ShortPair> : masked_istft_kernel<Complex>, args,
                       args.streams * args.sources * args.runs(),
                       masked_istft_memory(args.plan, args.window_length), stream);
}

}  // namespace ussfast
