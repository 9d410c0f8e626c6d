// Hops of audio: windowed frames in front of the transform, overlapping ones behind it.
#pragma once

#include "causal.h"
#include "vec.h"

namespace ussfast {
namespace {

// Where a row is in the state.
inline int64_t state_row(const int64_t* places, int64_t channels, int64_t row) {
  return places[row / channels] * channels + row % channels;
}

struct CausalFrame {
  const CausalWaveArgs& a;

  int64_t blocks() const { return a.rows; }
  int64_t scratch() const { return 0; }

  void run(int64_t row, char*) const {
    const float* __restrict audio = a.audio + row * a.hop;
    float* __restrict context = a.context + state_row(a.places, a.channels, row) * a.hop;
    float* __restrict frame = a.frame + row * 2 * a.hop;
    for (int64_t i = 0; i < a.hop; ++i) {
      frame[i] = context[i] * a.window[i];
      frame[a.hop + i] = audio[i] * a.window[a.hop + i];
    }
    std::memcpy(context, audio, a.hop * sizeof(float));
  }
};

struct CausalOverlap {
  const CausalWaveArgs& a;

  int64_t blocks() const { return a.rows * a.sources; }
  int64_t scratch() const { return 0; }

  void run(int64_t row, char*) const {
    const int64_t place = state_row(a.places, a.channels, row / a.sources);
    const float* __restrict late = a.late + row * 2 * a.hop;
    float* __restrict overlap = a.overlap + (place * a.sources + row % a.sources) * a.hop;
    float* __restrict out = a.out + row * a.hop;
    for (int64_t i = 0; i < a.hop; ++i) {
      out[i] = (overlap[i] + late[i] * a.window[i]) * a.scale[i];
      overlap[i] = late[a.hop + i] * a.window[a.hop + i];
    }
  }
};

}  // namespace
}  // namespace ussfast
