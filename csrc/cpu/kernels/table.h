// What the compiled instruction sets offer: one table of kernels each. Plain C++, shared by kernels and ops.
#pragma once

#include <cstdint>

namespace ussfast {

// Values of the `precision` argument of the ops.
enum class Precision : int { float32, bfloat16, int8 };
constexpr int kPrecisions = 3;

// Sequences along one axis of a [batch, frames, bands, channels] activation; strides in elements, channels adjacent.
struct Sequences {
  int64_t outer, inner, length, channels;
  int64_t in_outer, in_inner, in_step;
  int64_t out_outer, out_inner, out_step;

  int64_t count() const { return outer * inner; }
  int64_t in(int64_t s) const { return s / inner * in_outer + s % inner * in_inner; }
  int64_t out(int64_t s) const { return s / inner * out_outer + s % inner * out_inner; }
};

// RMSNorm over `groups` groups of channels; eps is added outside the root.
struct Norm {
  const float* weight;
  int64_t groups;
  float eps;
};

struct FfnArgs {
  const float* x;
  float* y;
  Sequences at;
  Norm norm;
  int64_t hidden, kernel, stride;
  bool causal;
  // Packed weights, see locoformer_ffn.cpp.
  const char *conv, *deconv;
  const float *conv_bias, *conv_scale, *deconv_bias, *deconv_scale;
  const int32_t *conv_zero, *deconv_zero;

  // Hidden rows per sequence.
  int64_t steps() const { return (at.length + kernel - stride + stride - 1) / stride; }
};

struct AttentionArgs {
  const float* x;
  float* y;
  Sequences at;
  Norm norm;
  int64_t heads, head_width;
  // Query l sees key k if k < prefix, or else if |l - k| < window (0: no limit) and, when causal, k <= l.
  int64_t window, prefix;
  bool causal;
  // Packed weights and rotation tables, see locoformer_attention.cpp.
  const float *qkv, *out, *cosine, *sine;

  // Positions per row of transposed scratch: a panel more than needed at most, and an odd number of half panels, so
  // that rows do not all fall into the same few sets of the cache.
  int64_t padded(int64_t panel) const {
    const int64_t full = (at.length + panel - 1) / panel * panel;
    return full + panel / 2;
  }
};

struct Kernels {
  int lanes;  // a packed panel has twice as many columns
  void (*rms_row_f32)(const float* x, const float* w, float* y, int64_t groups, int64_t width, float eps);
  void (*rms_row_f64)(const double* x, const double* w, double* y, int64_t groups, int64_t width, double eps);

  // Around the inverse STFT, see spectrum.h.
  void (*multiply_pairs)(const float* a, const float* b, float* out, int64_t count);
  void (*overlap_add)(const float* frame, const float* window, float* out, float* weight, int64_t count);
  void (*divide_by_weight)(const float* weight, float* out, int64_t count, float least);

  // Work is cut into independent blocks whose results do not depend on the thread that computes them.
  struct {
    int64_t (*blocks)(const FfnArgs&);
    int64_t (*scratch)(const FfnArgs&);  // bytes that one thread needs
    void (*run)(const FfnArgs&, int64_t first, int64_t last, char* scratch);
  } ffn[kPrecisions];

  int64_t (*locoformer_attention_scratch)(const AttentionArgs&);
  void (*locoformer_attention)(const AttentionArgs&, int64_t first, int64_t last, char* scratch);  // sequences
};

}  // namespace ussfast
