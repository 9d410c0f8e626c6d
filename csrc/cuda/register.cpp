// The CUDA kernels as PyTorch sees them. Streams and devices come through c10's interface that is the same for all
// backends, so this compiles against any PyTorch, also one without CUDA.
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include "../common/reference.h"
#include "../common/tensors.h"
#include "launch.h"

namespace ussfast {
namespace {

using at::Tensor;

cudaStream_t current_stream(at::Device device) {
  return static_cast<cudaStream_t>(c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle());
}

void check(cudaError_t error, const char* kernel) {
  TORCH_CHECK(error == cudaSuccess, kernel, ": ", cudaGetErrorName(error), ": ", cudaGetErrorString(error));
}

Tensor framed_stft(const Tensor& ring, const Tensor& begin, const Tensor& window, int64_t n_fft, int64_t hop,
                   int64_t frames) {
  if (ring.scalar_type() == at::kDouble || !fft_fits(n_fft))
    return reference("ussfast::framed_stft", &framed_stft, ring, begin, window, n_fft, hop, frames);
  const c10::DeviceGuard guard(ring.device());
  const auto made = framed_stft_arguments(ring, begin, window, n_fft, hop, frames);
  if (made.y.numel() != 0) check(launch_framed_stft(made.args, current_stream(ring.device())), "framed_stft");
  return made.y.to(ring.scalar_type());
}

Tensor masked_istft(const Tensor& mask, const std::optional<Tensor>& spec, const Tensor& window, int64_t n_fft,
                    int64_t hop, int64_t samples, bool normalized) {
  const c10::DeviceGuard guard(mask.device());
  const auto made = masked_istft_arguments(mask, spec, window, n_fft, hop, samples, normalized);
  const bool bfloat16 = made.held[0].scalar_type() == at::kBFloat16;
  if (made.y.numel() != 0)
    check(launch_masked_istft(made.args, bfloat16, current_stream(mask.device())), "_masked_istft");
  return made.y.to(masked_istft_dtype(mask, spec));
}

}  // namespace

TORCH_LIBRARY_IMPL(ussfast, CUDA, m) {
  m.impl("framed_stft", &framed_stft);
  m.impl("_masked_istft", &masked_istft);
}

}  // namespace ussfast
