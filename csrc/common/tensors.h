// From tensors to the arguments of the transforms in framed_stft.h and masked_istft.h, the same on every device.
#pragma once

#include <cmath>
#include <map>
#include <mutex>
#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include "framed_stft.h"
#include "masked_istft.h"

namespace ussfast {

// The roots of one for a plan, on a device. Made once: under a CUDA graph, a first call must have been before.
inline const Complex* fft_table_on(const FftPlan& plan, at::Device device) {
  static std::mutex mutex;
  // Never destroyed: at the end of the process the device's allocator may be gone already.
  static auto* const made = new std::map<std::tuple<at::DeviceType, at::DeviceIndex, int>, at::Tensor>;
  const std::lock_guard<std::mutex> lock(mutex);
  at::Tensor& table = (*made)[{device.type(), device.index(), plan.half}];
  if (!table.defined()) {
    const auto host = at::empty({plan.table_size, 2}, at::TensorOptions().dtype(at::kFloat));
    fft_table(plan, reinterpret_cast<Complex*>(host.mutable_data_ptr<float>()));
    table = host.to(device);
  }
  return reinterpret_cast<const Complex*>(table.const_data_ptr<float>());
}

// Tensors that the arguments point into; they must live until the kernel is on its stream.
template <class Args>
struct Prepared {
  Args args;
  at::Tensor y;
  at::Tensor held[3];
};

// [..., 2] in float32, or in bfloat16 if `keep_short`, with adjacent, aligned pairs and adjacent bins.
inline at::Tensor adjacent_pairs(const at::Tensor& x, bool keep_short) {
  const auto dtype = keep_short && x.scalar_type() == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  const auto converted = x.to(dtype);
  const int64_t axes = converted.dim();
  bool fits = converted.stride(axes - 1) == 1 && converted.stride(axes - 2) == 2 &&
              reinterpret_cast<uintptr_t>(converted.const_data_ptr()) % (2 * converted.element_size()) == 0;
  for (int64_t axis = 0; axis < axes - 2; ++axis) fits = fits && converted.stride(axis) % 2 == 0;
  return fits ? converted : converted.clone(at::MemoryFormat::Contiguous);
}

inline at::Tensor dense_floats(const at::Tensor& x) { return x.to(at::kFloat).contiguous(); }

// For every kernel of the op, also the reference.
inline void check_framed_stft(const at::Tensor& ring, const at::Tensor& begin, const at::Tensor& window, int64_t n_fft,
                              int64_t hop, int64_t frames) {
  TORCH_CHECK(ring.dim() == 2 && begin.dim() == 1 && begin.size(0) == ring.size(0) && begin.scalar_type() == at::kLong,
              "framed_stft: ring ", ring.sizes(), ", begin ", begin.sizes(), " ", begin.scalar_type());
  TORCH_CHECK(window.dim() == 1 && window.size(0) >= 1 && window.size(0) <= n_fft && n_fft <= ring.size(1) && hop >= 1 &&
                  hop < (int64_t(1) << 31) && frames >= 1 && frames <= ring.size(1) &&
                  (frames - 1) * hop + n_fft <= ring.size(1),
              "framed_stft: window ", window.sizes(), ", n_fft ", n_fft, ", hop ", hop, ", frames ", frames, ", ring ",
              ring.sizes());
}

inline Prepared<FramedStftArgs> framed_stft_arguments(const at::Tensor& ring, const at::Tensor& begin,
                                                      const at::Tensor& window, int64_t n_fft, int64_t hop,
                                                      int64_t frames) {
  check_framed_stft(ring, begin, window, n_fft, hop, frames);
  TORCH_CHECK(fft_fits(n_fft), "framed_stft: no transform of ", n_fft, " samples");
  TORCH_CHECK(begin.device() == ring.device() && window.device() == ring.device(),
              "framed_stft: arguments on several devices");
  Prepared<FramedStftArgs> made = {};
  const auto wide = ring.to(at::kFloat);
  made.held[0] = wide.stride(1) == 1 ? wide : wide.contiguous();
  made.held[1] = begin.contiguous();
  made.held[2] = dense_floats(window);
  made.y = at::empty({ring.size(0), frames, n_fft / 2 + 1, 2}, ring.options().dtype(at::kFloat));
  const FftPlan plan = fft_plan(int(n_fft));
  made.args = {
      .ring = made.held[0].const_data_ptr<float>(),
      .begin = made.held[1].const_data_ptr<int64_t>(),
      .window = made.held[2].const_data_ptr<float>(),
      .table = fft_table_on(plan, ring.device()),
      .y = reinterpret_cast<Complex*>(made.y.mutable_data_ptr<float>()),
      .row = made.held[0].stride(0),
      .rows = ring.size(0),
      .frames = frames,
      .capacity = ring.size(1),
      .hop = hop,
      .n_fft = int(n_fft),
      .window_length = int(window.size(0)),
      .plan = plan,
  };
  return made;
}

// `run` is left to the caller.
inline Prepared<MaskedIstftArgs> masked_istft_arguments(const at::Tensor& mask, const std::optional<at::Tensor>& spec,
                                                        const at::Tensor& window, int64_t n_fft, int64_t hop,
                                                        int64_t samples, bool normalized) {
  TORCH_CHECK(fft_fits(n_fft) && mask.dim() == 5 && mask.size(2) > 0 && mask.size(3) == n_fft / 2 + 1 &&
                  mask.size(4) == 2 && (!spec || spec->sizes() == at::IntArrayRef({mask.size(0), mask.size(2),
                                                                                   mask.size(3), 2})),
              "_masked_istft: mask ", mask.sizes(), ", n_fft ", n_fft);
  TORCH_CHECK(window.dim() == 1 && hop > 0 && hop <= window.size(0) && window.size(0) <= n_fft && samples >= 0,
              "_masked_istft: window ", window.sizes(), ", hop ", hop, ", n_fft ", n_fft, ", samples ", samples);
  TORCH_CHECK(mask.scalar_type() != at::kDouble && (!spec || spec->scalar_type() != at::kDouble),
              "_masked_istft computes in float32");
  TORCH_CHECK(window.device() == mask.device() && (!spec || spec->device() == mask.device()),
              "_masked_istft: arguments on several devices");
  Prepared<MaskedIstftArgs> made = {};
  const at::Tensor masks = made.held[0] = adjacent_pairs(mask, true);
  const at::Tensor mixture = made.held[1] = spec ? adjacent_pairs(*spec, false) : at::Tensor();
  made.held[2] = dense_floats(window);
  made.y = at::empty({mask.size(0), mask.size(1), samples}, mask.options().dtype(at::kFloat));
  const FftPlan plan = fft_plan(int(n_fft));
  made.args = {
      .mask = masks.const_data_ptr(),
      .spec = spec ? reinterpret_cast<const Complex*>(mixture.const_data_ptr<float>()) : nullptr,
      .window = made.held[2].const_data_ptr<float>(),
      .table = fft_table_on(plan, mask.device()),
      .y = made.y.mutable_data_ptr<float>(),
      .mask_stream = masks.stride(0) / 2,
      .mask_source = masks.stride(1) / 2,
      .mask_frame = masks.stride(2) / 2,
      .spec_stream = spec ? mixture.stride(0) / 2 : 0,
      .spec_frame = spec ? mixture.stride(1) / 2 : 0,
      .streams = mask.size(0),
      .sources = mask.size(1),
      .frames = mask.size(2),
      .samples = samples,
      .n_fft = int(n_fft),
      .hop = int(hop),
      .window_length = int(window.size(0)),
      .scale = float(normalized ? 1 / std::sqrt(double(n_fft)) : 1 / double(n_fft)),
      .run = 1,
      .plan = plan,
  };
  return made;
}

inline at::ScalarType masked_istft_dtype(const at::Tensor& mask, const std::optional<at::Tensor>& spec) {
  return spec ? c10::promoteTypes(mask.scalar_type(), spec->scalar_type()) : mask.scalar_type();
}

}  // namespace ussfast
