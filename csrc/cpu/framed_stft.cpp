#include <torch/library.h>

#include "../common/tensors.h"
#include "shared.h"

namespace ussfast {
namespace {

using at::Tensor;

Tensor framed_stft(const Tensor& ring, const Tensor& begin, const Tensor& window, int64_t n_fft, int64_t hop,
                   int64_t frames) {
  check_framed_stft(ring, begin, window, n_fft, hop, frames);
  if (ring.scalar_type() == at::kDouble || !fft_fits(n_fft))
    return reference("ussfast::framed_stft", &framed_stft, ring, begin, window, n_fft, hop, frames);
  const auto made = framed_stft_arguments(ring, begin, window, n_fft, hop, frames);
  run_blocks(ring.size(0) * frames, framed_stft_memory(made.args.plan), [&](int64_t i, int64_t last, char* memory) {
    for (; i < last; ++i) framed_stft_frame(OneThread(), made.args, i, reinterpret_cast<Complex*>(memory));
  });
  return made.y.to(ring.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("framed_stft", &framed_stft); }

}  // namespace ussfast
