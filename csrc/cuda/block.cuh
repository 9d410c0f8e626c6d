// A block of threads as a team, and what launches have in common.
#pragma once

#include <climits>

#include "launch.h"

namespace ussfast {

constexpr int kMostThreads = 256;
constexpr int64_t kMemoryWithoutAsking = 48 << 10;

struct Block {
  __device__ __forceinline__ int rank() const { return int(threadIdx.x); }
  __device__ __forceinline__ int size() const { return int(blockDim.x); }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
};

// One butterfly of radix 8 per thread, so that none waits at a barrier for the others' second one.
inline int threads_for(const FftPlan& plan) {
  const int threads = (plan.half / 8 + 31) / 32 * 32;
  return threads < 32 ? 32 : threads > kMostThreads ? kMostThreads : threads;
}

template <class Args>
cudaError_t launch_blocks(void (*kernel)(Args), const Args& args, int64_t blocks, int64_t memory, cudaStream_t stream) {
  if (blocks < 1 || blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  if (memory > kMemoryWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(memory));
    if (error != cudaSuccess) return error;
  }
  kernel<<<dim3(unsigned(blocks)), dim3(unsigned(threads_for(args.plan))), size_t(memory), stream>>>(args);
  return cudaGetLastError();
}

}  // namespace ussfast
