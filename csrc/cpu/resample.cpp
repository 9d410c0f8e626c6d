// Dot products of sample-rate conversion. No op: nothing differentiates or exports them.
#include "shared.h"

#include <torch/library.h>

namespace ussfast {
namespace {

// Below this many multiplications waking threads takes longer than the work.
constexpr int64_t kSmall = 1 << 21;
constexpr int64_t kMost = int64_t(1) << 31;  // of what is multiplied below

at::Tensor resample(const at::Tensor& x, const at::Tensor& table, int64_t start, int64_t phase, int64_t up, int64_t down,
                    int64_t count) {
  TORCH_CHECK(x.dim() == 2 && x.scalar_type() == at::kFloat && table.dim() == 2 && table.scalar_type() == at::kFloat &&
                  table.is_contiguous() && table.size(0) > 1 && table.size(1) % 16 == 0,
              "_resample: x ", x.sizes(), " ", x.scalar_type(), ", table ", table.sizes(), " ", table.scalar_type());
  TORCH_CHECK(up > 0 && up < kMost && down > 0 && down < kMost && phase >= 0 && phase < up && count >= 0 &&
                  count < kMost && start >= 0 && start <= x.size(1) &&
                  (count == 0 || start + (phase + (count - 1) * down) / up + table.size(1) <= x.size(1)),
              "_resample: start ", start, ", phase ", phase, ", ", up, " / ", down, ", count ", count, ", x ", x.sizes());
  auto y = at::empty({x.size(0), count}, x.options());
  if (y.numel() == 0) return y;
  const auto input = x.stride(1) == 1 ? x : x.contiguous();
  const ResampleArgs args = {
      .x = input.const_data_ptr<float>(),
      .y = y.mutable_data_ptr<float>(),
      .table = table.const_data_ptr<float>(),
      .channels = x.size(0),
      .count = count,
      .channel = input.stride(0),
      .rows = table.size(0) - 1,
      .taps = table.size(1),
      .start = start,
      .phase = phase,
      .up = up,
      .down = down,
  };
  const auto& kernel = kernels().resample;
  if (y.numel() * table.size(1) < kSmall)
    kernel.run(args, 0, kernel.blocks(args), nullptr);
  else
    run_blocks(kernel, args);
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def("_resample(Tensor x, Tensor table, int start, int phase, int up, int down, int count) -> Tensor", &resample);
}

}  // namespace ussfast
