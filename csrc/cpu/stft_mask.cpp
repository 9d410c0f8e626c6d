#include <algorithm>
#include <vector>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/_fft_c2r.h>
#include <ATen/ops/_fft_r2c.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/view_as_real.h>
#include <torch/library.h>

#include "shared.h"

namespace ussfast {
namespace {

using at::Tensor;

struct Sizes {
  Sizes(int64_t frames, int64_t n_fft, int64_t hop, int64_t window, int64_t samples)
      : frames(frames),
        n_fft(n_fft),
        hop(hop),
        window(window),
        samples(samples),
        batch(std::clamp<int64_t>(kValues / n_fft, 4, 256)),
        shared((window + hop - 2) / hop),
        own(std::max(batch - shared, 8 * shared + 1) * hop),
        blocks_per_signal((samples + own - 1) / own) {}

  // Returned sample at which the window of frame t begins. The window stands in the middle of n_fft, and the middle of
  // the first frame is sample 0.
  int64_t begin(int64_t t) const { return t * hop + (n_fft - window) / 2 - n_fft / 2; }

  // Frames whose windows reach into the samples from .. to - 1.
  int64_t first_frame(int64_t from) const {
    const int64_t past = from - window - begin(0);
    return past < 0 ? 0 : past / hop + 1;
  }
  int64_t end_frame(int64_t to) const { return std::min(frames, (to - begin(0) + hop - 1) / hop); }

  int64_t frames, n_fft, hop, window, samples;
  // Frames per call of the inverse transform: each call makes a plan, which costs as much as some thirty frames, but
  // what it reads and writes should stay in the cache.
  static constexpr int64_t kValues = 1 << 17;
  int64_t batch;
  // Frames that a block may have in common with the next. Both compute them: a block writes only its own samples, so
  // that nothing depends on order or threads. Blocks are long enough for that to be an eighth of the work at most.
  int64_t shared;
  int64_t own;  // samples of a block
  int64_t blocks_per_signal;
};

// [frames, bins, 2] in float32 with adjacent pairs: in place if it is so, else a copy of these frames only.
Tensor pairs(const Tensor& x, int64_t start, int64_t count) {
  const auto part = x.narrow(0, start, count).to(at::kFloat);
  return part.stride(1) == 2 && part.stride(2) == 1 ? part : part.contiguous();
}

// The samples of one block of one signal. mask: [frames, bins, 2], spec: the same or undefined.
void synthesize(const Sizes& sizes, const Tensor& mask, const Tensor& spec, const float* window, bool normalized,
                int64_t block, float* y, float* product, float* weight) {
  const Kernels& run = kernels();
  const int64_t from = block * sizes.own, to = std::min(sizes.samples, from + sizes.own);
  const int64_t bins = sizes.n_fft / 2 + 1, end = sizes.end_frame(to);
  std::fill(y + from, y + to, 0.0f);
  std::fill(weight, weight + (to - from), 0.0f);
  for (int64_t t = sizes.first_frame(from); t < end; t += sizes.batch) {
    const int64_t count = std::min(sizes.batch, end - t);
    const auto masks = pairs(mask, t, count), mixture = spec.defined() ? pairs(spec, t, count) : spec;
    for (int64_t i = 0; i < count; ++i) {
      const float* a = masks.const_data_ptr<float>() + i * masks.stride(0);
      float* out = product + 2 * i * bins;
      if (spec.defined())
        run.multiply_pairs(a, mixture.const_data_ptr<float>() + i * mixture.stride(0), out, bins);
      else
        std::copy_n(a, 2 * bins, out);
      // These bins are real. Not every transform ignores what else is there.
      out[1] = 0.0f;
      if (sizes.n_fft % 2 == 0) out[2 * bins - 1] = 0.0f;
    }
    const auto spectrum = at::from_blob(product, {count, bins}, at::TensorOptions().dtype(at::kComplexFloat));
    // 1: divided by the root of n_fft, 2: by n_fft.
    const auto frames = at::_fft_c2r(spectrum, {1}, normalized ? 1 : 2, sizes.n_fft).contiguous();
    const float* frame = frames.const_data_ptr<float>() + (sizes.n_fft - sizes.window) / 2;
    for (int64_t i = 0; i < count; ++i, frame += sizes.n_fft) {
      const int64_t begin = sizes.begin(t + i);
      const int64_t first = std::max(begin, from), last = std::min(begin + sizes.window, to);
      run.overlap_add(frame + (first - begin), window + (first - begin), y + first, weight + (first - from),
                      last - first);
    }
  }
  run.divide_by_weight(weight, y + from, to - from, 1e-11f);  // the bound of the reference
}

// Masks that add up to 1: every source gets the same share of what is missing.
Tensor consistent(const Tensor& mask) {
  const auto wide = mask.to(at::kFloat);
  const auto missing = wide.sum(1, true).neg_();
  missing.select(-1, 0).add_(1);
  return missing.div_(mask.size(1)).add(wide);
}

void check(const Tensor& mask, const std::optional<Tensor>& spec, const Tensor& window, int64_t n_fft, int64_t hop,
           int64_t samples) {
  TORCH_CHECK(mask.dim() == 5 && mask.size(2) > 0 && mask.size(3) == n_fft / 2 + 1 && mask.size(4) == 2 &&
                  (!spec || spec->sizes() ==
                                at::IntArrayRef({mask.size(0), mask.size(2), mask.size(3), mask.size(4)})),
              "stft_mask: mask ", mask.sizes(), ", n_fft ", n_fft);
  TORCH_CHECK(window.dim() == 1 && hop > 0 && hop <= window.size(0) && window.size(0) <= n_fft && samples >= 0,
              "stft_mask: window ", window.sizes(), ", hop ", hop, ", n_fft ", n_fft, ", samples ", samples);
}

Tensor stft_mask(const Tensor& given, const std::optional<Tensor>& spec, const Tensor& window, int64_t n_fft,
                 int64_t hop, int64_t samples, bool normalized, bool consistency) {
  const auto dtype = spec ? c10::promoteTypes(given.scalar_type(), spec->scalar_type()) : given.scalar_type();
  if (dtype == at::kDouble)
    return reference("ussfast::stft_mask", &stft_mask, given, spec, window, n_fft, hop, samples, normalized,
                     consistency);
  auto mask = given;
  check(mask, spec, window, n_fft, hop, samples);
  const int64_t sources = mask.size(1);
  auto y = at::empty({mask.size(0), sources, samples}, mask.options().dtype(at::kFloat));
  if (y.numel() == 0) return y.to(dtype);
  if (consistency) mask = consistent(mask);
  const Sizes sizes(mask.size(2), n_fft, hop, window.size(0), samples);
  const auto shape = dense(window);
  float* out = y.mutable_data_ptr<float>();
  Layout layout;
  const int64_t product = layout.add<float>(2 * sizes.batch * mask.size(3)), weight = layout.add<float>(sizes.own);
  const int64_t blocks = mask.size(0) * sources * sizes.blocks_per_signal;
  run_blocks(blocks, layout.size(), [&](int64_t i, int64_t last, char* memory) {
    at::AutoDispatchBelowADInplaceOrView guard;  // this thread may be one that would record gradients
    const OneTransformThread planned;
    for (; i < last; ++i) {
      const int64_t signal = i / sizes.blocks_per_signal, batch = signal / sources;
      synthesize(sizes, mask.select(0, batch).select(0, signal % sources), spec ? spec->select(0, batch) : Tensor(),
                 shape.const_data_ptr<float>(), normalized, i % sizes.blocks_per_signal, out + signal * samples,
                 reinterpret_cast<float*>(memory + product), reinterpret_cast<float*>(memory + weight));
    }
  });
  return y.to(dtype);
}

// 1 / the summed squared window at every sample, 0 where no window reaches.
std::vector<float> inverse_weight(const Sizes& sizes, const float* window) {
  std::vector<float> weight(sizes.samples), ones(sizes.samples, 1.0f), unused(sizes.samples);
  const Kernels& run = kernels();
  for (int64_t t = 0; t < sizes.frames && sizes.begin(t) < sizes.samples; ++t) {
    const int64_t begin = sizes.begin(t), first = std::max<int64_t>(begin, 0);
    const int64_t last = std::min(begin + sizes.window, sizes.samples);
    if (first < last)
      run.overlap_add(window + (first - begin), window + (first - begin), unused.data() + first, weight.data() + first,
                      last - first);
  }
  run.divide_by_weight(weight.data(), ones.data(), sizes.samples, 1e-11f);
  return ones;
}

// Gradients of `count` frames of masks of one source from frame t on. frames: [count, n_fft]; out: [count, bins, 2].
void analyze(const Sizes& sizes, const float* grad, const float* inverse, const float* window, bool normalized,
             const Tensor& mixture, int64_t t, int64_t count, float* frames, float* out) {
  const Kernels& run = kernels();
  const int64_t bins = sizes.n_fft / 2 + 1, before = (sizes.n_fft - sizes.window) / 2;
  std::fill(frames, frames + count * sizes.n_fft, 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = sizes.begin(t + i), first = std::max<int64_t>(begin, 0);
    const int64_t last = std::min(begin + sizes.window, sizes.samples);
    if (first < last)
      run.weigh(grad + first, inverse + first, window + (first - begin), frames + i * sizes.n_fft + before + (first - begin),
                last - first);
  }
  const auto real = at::from_blob(frames, {count, sizes.n_fft}, at::TensorOptions().dtype(at::kFloat));
  const auto spectrum = at::view_as_real(at::_fft_r2c(real, {1}, normalized ? 1 : 2, true)).contiguous();
  const float* from = spectrum.const_data_ptr<float>();
  const bool even = sizes.n_fft % 2 == 0;
  for (int64_t i = 0; i < count; ++i, from += 2 * bins, out += 2 * bins) {
    const float* by = mixture.defined() ? mixture.const_data_ptr<float>() + i * mixture.stride(0) : nullptr;
    // Every bin stands for itself and its mirror image, but those that are real.
    run.multiply_conjugate(from, by, 2.0f, out, bins);
    for (const int64_t k : {int64_t(0), even ? bins - 1 : 0}) {
      const float real_part = from[2 * k];
      out[2 * k] = by == nullptr ? real_part : real_part * by[2 * k];
      out[2 * k + 1] = by == nullptr ? 0.0f : -real_part * by[2 * k + 1];
    }
  }
}

// The gradient of the mask.
Tensor backward(const Tensor& grad, const Tensor& mask, const std::optional<Tensor>& spec, const Tensor& window,
                int64_t n_fft, int64_t hop, int64_t samples, bool normalized, bool consistency) {
  check(mask, spec, window, n_fft, hop, samples);
  const auto of_y = dense(grad);
  const int64_t sources = mask.size(1), frames = mask.size(2), values = 2 * mask.size(3);
  TORCH_CHECK(of_y.sizes() == at::IntArrayRef({mask.size(0), sources, samples}), "stft_mask: the gradient ", grad.sizes(),
              " does not fit mask ", mask.sizes(), " and ", samples, " samples");
  auto of_mask = result(mask.sizes());
  if (of_mask.numel() == 0 || samples == 0) return of_mask.zero_();
  const Sizes sizes(frames, n_fft, hop, window.size(0), samples);
  const auto shape = dense(window);
  const auto inverse = inverse_weight(sizes, shape.const_data_ptr<float>());
  const float* from = of_y.const_data_ptr<float>();
  float* out = of_mask.mutable_data_ptr<float>();
  Layout layout;
  const int64_t framed = layout.add<float>(sizes.batch * n_fft);
  const int64_t blocks = (frames + sizes.batch - 1) / sizes.batch;  // of one item, all sources
  run_blocks(mask.size(0) * blocks, layout.size(), [&](int64_t i, int64_t last, char* memory) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const OneTransformThread planned;
    for (; i < last; ++i) {
      const int64_t item = i / blocks, t = i % blocks * sizes.batch, count = std::min(sizes.batch, frames - t);
      const auto mixture = spec ? pairs(spec->select(0, item), t, count) : Tensor();
      const auto place = [&](int64_t source) { return out + ((item * sources + source) * frames + t) * values; };
      for (int64_t source = 0; source < sources; ++source)
        analyze(sizes, from + (item * sources + source) * samples, inverse.data(), shape.const_data_ptr<float>(),
                normalized, mixture, t, count, reinterpret_cast<float*>(memory + framed), place(source));
      // What is added to one source's mask is taken from all.
      if (consistency) kernels().subtract_mean(place(0), sources, frames * values, count * values);
    }
  });
  return of_mask;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def(
      "_stft_mask_backward(Tensor grad, Tensor mask, Tensor? spec, Tensor window, int n_fft, int hop, int samples, "
      "bool normalized, bool consistency) -> Tensor",
      &backward);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("stft_mask", &stft_mask); }

}  // namespace ussfast
