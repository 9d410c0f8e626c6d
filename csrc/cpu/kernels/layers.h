// Arguments that several kernels share. Plain C++, shared by kernels and ops.
#pragma once

#include <cstdint>

namespace ussfast {

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
  const int32_t* deconv_zero;

  // Hidden rows per sequence.
  int64_t steps() const { return (at.length + kernel - stride + stride - 1) / stride; }
};

// Tiles of a product (gemm.h) may read so many rows of A beyond its last, and write as many of the result.
constexpr int64_t kSpareRows = 3;

}  // namespace ussfast
