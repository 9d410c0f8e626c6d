// What a GPU runs behind the op stft_mask, here for tests of it: stft_mask.cpp is faster on a CPU.
#include <torch/library.h>

#include "../common/tensors.h"
#include "shared.h"

namespace ussfast {
namespace {

using at::Tensor;

// Runs per call, if there are as many hops: as a GPU of moderate size has.
constexpr int64_t kPlaces = 64;

Tensor masked_istft(const Tensor& mask, const std::optional<Tensor>& spec, const Tensor& window, int64_t n_fft,
                    int64_t hop, int64_t samples, bool normalized) {
  auto made = masked_istft_arguments(mask, spec, window, n_fft, hop, samples, normalized);
  MaskedIstftArgs& args = made.args;
  if (made.y.numel() == 0) return made.y.to(masked_istft_dtype(mask, spec));
  args.run = masked_istft_run(args, kPlaces);
  auto* const run = made.held[0].scalar_type() == at::kFloat ? &masked_istft_run_of<Complex, OneThread>
                                                            : &masked_istft_run_of<ShortPair, OneThread>;
  run_blocks(args.streams * args.sources * args.runs(), masked_istft_memory(args.plan, args.window_length),
             [&](int64_t i, int64_t last, char* memory) {
               for (; i < last; ++i) run(OneThread(), args, i, reinterpret_cast<Complex*>(memory));
             });
  return made.y.to(masked_istft_dtype(mask, spec));
}

}  // namespace

TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("_masked_istft", &masked_istft); }

}  // namespace ussfast
