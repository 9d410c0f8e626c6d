// What the ops share around their kernels: arguments, scratch memory, packed weights, the way back to the reference.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include "../common/reference.h"
#include "isa.h"

namespace ussfast {

// Memory of this thread that stays for the next call; it grows to the largest request.
// Under AddressSanitizer it is new in every call, so that it sees the end of each request.
inline char* scratch(int64_t bytes) {
  struct Memory {
    char* data = nullptr;
    int64_t size = 0;
    ~Memory() { std::free(data); }
  };
  thread_local Memory memory;
#ifdef __SANITIZE_ADDRESS__
  constexpr int64_t step = 64;
  memory.size = 0;
#else
  constexpr int64_t step = 4096;
#endif
  if (bytes > memory.size) {
    std::free(memory.data);
    memory.size = (bytes + step - 1) / step * step;
    memory.data = static_cast<char*>(std::aligned_alloc(64, memory.size));
    if (memory.data == nullptr) {
      memory.size = 0;
      throw std::bad_alloc();
    }
  }
  return memory.data;
}

// Memory for a layer's result, [sizes] float32. It comes back here when the last tensor on it is gone, so that the layers
// of a model write into the same few buffers in turn instead of pages that the system has to clear every time.
at::Tensor result(at::IntArrayRef sizes);

// Runs all blocks of a kernel on ATen's threads. Each takes the next few when it is done with its last: the cores of a
// shared machine are not equally fast. Blocks do not depend on each other, so nor does the result on who computes them.
template <class Run>
void run_blocks(int64_t blocks, int64_t bytes, const Run& run) {
  const int64_t threads = at::get_num_threads(), few = std::max<int64_t>(1, blocks / (threads * 16));
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, std::min(threads, blocks), 1, [&](int64_t, int64_t) {
    for (int64_t first; (first = next.fetch_add(few)) < blocks;) run(first, std::min(first + few, blocks), scratch(bytes));
  });
}

template <class Args>
void run_blocks(const Blocks<Args>& kernel, const Args& args) {
  run_blocks(kernel.blocks(args), kernel.scratch(args),
             [&](int64_t first, int64_t last, char* memory) { kernel.run(args, first, last, memory); });
}

// While it lives, transforms of this thread are planned for one thread. MKL plans for as many as it could use, even where
// it will run on one, and another plan rounds otherwise: bits would depend on the number of threads. Such a setting is a
// thread's own, so each needs it: around the transforms, inside of run_blocks.
class OneTransformThread {
 public:
  OneTransformThread();
  ~OneTransformThread();
  OneTransformThread(const OneTransformThread&) = delete;
  OneTransformThread& operator=(const OneTransformThread&) = delete;

 private:
  int before_;
};

// Sequences along axis 1 (time) or 2 (frequency) of x [batch, frames, bands, channels]; y is contiguous.
inline Sequences sequences(const at::Tensor& x, int64_t axis) {
  const int64_t other = 3 - axis, row = x.size(3);
  const int64_t steps[] = {x.size(1) * x.size(2) * row, x.size(2) * row, row};
  return {.outer = x.size(0), .inner = x.size(other), .length = x.size(axis), .channels = row,
          .in_outer = x.stride(0), .in_inner = x.stride(other), .in_step = x.stride(axis),
          .out_outer = steps[0], .out_inner = steps[other], .out_step = steps[axis]};
}

// float32 with adjacent channels: what kernels read.
inline at::Tensor floats(const at::Tensor& x) {
  TORCH_CHECK(x.device().is_cpu(), "a kernel for the CPU was given a tensor on ", x.device());
  return x.to(at::kFloat);
}
inline at::Tensor readable(const at::Tensor& x) {
  const auto wide = floats(x);
  return wide.size(-1) == 1 || wide.stride(-1) == 1 ? wide : wide.contiguous();
}
inline at::Tensor dense(const at::Tensor& x) { return floats(x).contiguous(); }

inline Precision precision_of(c10::string_view name) {
  if (name == "float32") return Precision::float32;
  if (name == "bfloat16") return Precision::bfloat16;
  TORCH_CHECK(name == "int8", "precision must be float32, bfloat16 or int8, got ", std::string(name));
  return Precision::int8;
}

// Lays parts of a block of packed weights behind each other, each aligned to a cache line.
class Layout {
 public:
  template <typename T>
  int64_t add(int64_t count) {
    const int64_t at = size_;
    size_ += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
    return at;
  }
  int64_t size() const { return size_; }

 private:
  int64_t size_ = 0;
};

// The packed weights given, or packed now; either must have the size that this CPU's kernels expect.
template <class Pack>
at::Tensor packed_or(const std::optional<at::Tensor>& packed, int64_t size, const Pack& pack) {
  if (!packed) return pack();
  TORCH_CHECK(packed->numel() == size && packed->is_contiguous() && packed->scalar_type() == at::kByte,
              "packed weights are for other settings or another instruction set: expected ", size, " bytes, got ",
              packed->numel());
  return *packed;
}

}  // namespace ussfast
