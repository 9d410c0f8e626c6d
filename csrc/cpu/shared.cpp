#include "shared.h"

#include <limits>
#include <mutex>
#include <vector>

#include <ATen/Context.h>
#include <ATen/ops/from_blob.h>

// Of MKL, which comes with torch. Weak: a torch that transforms with something else has no such function.
extern "C" int MKL_Set_Num_Threads_Local(int threads) __attribute__((weak));

namespace ussfast {
namespace {

struct Buffer {
  void* data;
  int64_t size;
};

// A layer reads one buffer and writes another, while its input's maker may still hold a third.
constexpr size_t kKept = 3;
// Smaller results come from the allocator, which does not give such memory back to the system.
constexpr int64_t kLeast = 1 << 20;

struct Pool {
  std::mutex mutex;
  std::vector<Buffer> kept;  // oldest first

  Buffer take(int64_t size) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      for (auto it = kept.begin(); it != kept.end(); ++it)
        if (it->size >= size && it->size <= 2 * size) {
          const Buffer found = *it;
          kept.erase(it);
          return found;
        }
    }
    void* data = std::aligned_alloc(64, (size + 63) / 64 * 64);
    if (data == nullptr) throw std::bad_alloc();
    return {data, size};
  }

  void give_back(Buffer buffer) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      kept.push_back(buffer);
      if (kept.size() <= kKept) return;
      buffer = kept.front();
      kept.erase(kept.begin());
    }
    std::free(buffer.data);
  }
};

Pool& pool() {
  static Pool* const pool = new Pool;  // never destroyed: tensors may outlive every static object
  return *pool;
}

}  // namespace

OneTransformThread::OneTransformThread() : before_(MKL_Set_Num_Threads_Local ? MKL_Set_Num_Threads_Local(1) : 0) {}

OneTransformThread::~OneTransformThread() {
  if (MKL_Set_Num_Threads_Local) MKL_Set_Num_Threads_Local(before_);
}

at::Tensor result(at::IntArrayRef sizes) {
  const auto options = at::TensorOptions().dtype(at::kFloat);
  int64_t size = sizeof(float);
  for (const int64_t n : sizes) size *= n;
  const auto& context = at::globalContext();
  // Where torch.empty is to be filled with NaN to find holes, or its end is watched, it must be torch.empty.
#ifdef __SANITIZE_ADDRESS__
  constexpr bool watched = true;
#else
  constexpr bool watched = false;
#endif
  const bool filled = context.deterministicAlgorithms() && context.deterministicFillUninitializedMemory();
  if (size < kLeast || filled || watched) return at::empty(sizes, options);
  const Buffer buffer = pool().take(size);
  return at::from_blob(buffer.data, sizes, [buffer](void*) { pool().give_back(buffer); }, options);
}

}  // namespace ussfast
