// Sample-rate conversion: every output sample is a dot product of input with a row of a table of weights.
#pragma once

#include <algorithm>
#include <utility>

#include "norm.h"

namespace ussfast {
namespace {

class Resample {
 public:
  explicit Resample(const ResampleArgs& args) : a_(args) {}

  int64_t blocks() const { return a_.channels * per_channel(); }
  int64_t scratch() const { return 0; }

  void run(int64_t block, char*) const { a_.rows == a_.up ? run<false>(block) : run<true>(block); }

 private:
  static constexpr int kTogether = 4;
  static constexpr int64_t kBlock = 1024;  // outputs

  int64_t per_channel() const { return (a_.count + kBlock - 1) / kBlock; }

  // BETWEEN: there are other phases than those of the table's rows.
  template <bool BETWEEN>
  void run(int64_t block) const {
    const float* const x = a_.x + block / per_channel() * a_.channel;
    float* const y = a_.y + block / per_channel() * a_.count;
    int64_t i = block % per_channel() * kBlock;
    const int64_t end = std::min(i + kBlock, a_.count), whole = a_.down / a_.up, part = a_.down % a_.up;
    const int64_t time = a_.phase + i * a_.down;
    const float* from = x + a_.start + time / a_.up;
    int64_t phase = time % a_.up;
    for (; i < end; i += kTogether) {
      const float *in[kTogether], *row[kTogether];
      float way[kTogether];  // to the next row
#pragma GCC unroll 4
      for (int k = 0; k < kTogether; ++k) {
        // The same arithmetic for a last few, so that a sample does not depend on those computed together with it.
        if (i + k >= end) {
          in[k] = in[0], row[k] = row[0], way[k] = way[0];
          continue;
        }
        const int64_t place = BETWEEN ? phase * a_.rows : phase, index = BETWEEN ? place / a_.up : phase;
        in[k] = from;
        row[k] = a_.table + index * a_.taps;
        if constexpr (BETWEEN) way[k] = float(place - index * a_.up) / float(a_.up);
        const bool over = phase + part >= a_.up;
        from += whole + over;
        phase += part - (over ? a_.up : 0);
      }
      const V<float, 4> sums = dots<BETWEEN>(in, row, way);
      std::memcpy(y + i, &sums, std::min<int64_t>(kTogether, end - i) * sizeof(float));
    }
  }

  template <bool BETWEEN>
  USSFAST_INLINE V<float, 4> dots(const float* const (&in)[kTogether], const float* const (&row)[kTogether],
                                  const float (&way)[kTogether]) const {
    F sum[kTogether] = {};
    for (int64_t j = 0; j < a_.taps; j += kLanes)
#pragma GCC unroll 4
      for (int k = 0; k < kTogether; ++k) {
        F weight = load(row[k] + j);
        if constexpr (BETWEEN) weight += way[k] * (load(row[k] + a_.taps + j) - weight);
        sum[k] += load(in[k] + j) * weight;
      }
    constexpr std::make_index_sequence<kLanes / 2> half;
    const auto a = fold<float, kLanes>(sum[0], half), b = fold<float, kLanes>(sum[1], half);
    const auto c = fold<float, kLanes>(sum[2], half), d = fold<float, kLanes>(sum[3], half);
    const auto ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const auto cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  }

  const ResampleArgs& a_;
};

}  // namespace
}  // namespace ussfast
