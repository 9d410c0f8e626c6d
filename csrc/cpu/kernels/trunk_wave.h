// Hops of audio of the causal model: frames in front of the transform, masked spectra and overlapping frames
// behind it. Rows are (item, channel).
#pragma once

#include "spectrum.h"
#include "trunk.h"

namespace ussfast {
namespace {

struct TrunkFrame {
  const TrunkArgs& a;

  int64_t blocks() const { return a.items * a.channels; }
  int64_t scratch() const { return 0; }

  void run(int64_t row, char*) const {
    const float* __restrict audio = a.audio + row * a.hop;
    float* __restrict context = a.context + (a.places[row / a.channels] * a.channels + row % a.channels) * a.hop;
    float* __restrict frame = a.frame + row * 2 * a.hop;
    for (int64_t i = 0; i < a.hop; ++i) {
      frame[i] = context[i] * a.window[i];
      frame[a.hop + i] = audio[i] * a.window[a.hop + i];
    }
    std::memcpy(context, audio, a.hop * sizeof(float));
  }
};

// The masks of every pair on the spectra of its item's channels.
struct TrunkMasks {
  const TrunkArgs& a;
  const int64_t lanes;

  explicit TrunkMasks(const TrunkArgs& args) : a(args), lanes(round_up(args.bins, kPanel)) {}
  int64_t blocks() const { return a.items; }
  int64_t scratch() const { return 0; }

  void run(int64_t item, char*) const {
    const int64_t size = 2 * a.bins;
    for (int64_t pair = a.first[item]; pair < a.first[item + 1]; ++pair)
      for (int64_t channel = 0; channel < a.channels; ++channel)
        apply(a.masks + pair * 2 * lanes, a.spec + (item * a.channels + channel) * size,
              a.estimate + (pair * a.channels + channel) * size);
  }

 private:
  void apply(const float* __restrict masks, const float* __restrict spec, float* __restrict to) const {
    for (int64_t b = 0; b < a.bins; ++b) {
      const float re = masks[b], im = masks[lanes + b], x = spec[2 * b], y = spec[2 * b + 1];
      to[2 * b] = re * x - im * y;
      to[2 * b + 1] = re * y + im * x;
    }
  }
};

// A row of every source; one without a prompt fades out with what is left of the last that it had.
struct TrunkOverlap {
  const TrunkArgs& a;

  int64_t blocks() const { return a.items * a.channels; }
  int64_t scratch() const { return 0; }

  void run(int64_t row, char*) const {
    const int64_t item = row / a.channels, channel = row % a.channels;
    const int64_t pair = a.first[item], count = a.first[item + 1] - pair;
    const int64_t place = a.places[item] * a.channels + channel;
    for (int64_t source = 0; source < a.sources; ++source) {
      const float* __restrict late = a.late + ((pair + source) * a.channels + channel) * 2 * a.hop;
      float* __restrict overlap = a.overlap + (place * a.sources + source) * a.hop;
      float* __restrict out = a.out + (row * a.sources + source) * a.hop;
      if (source < count) {
        for (int64_t i = 0; i < a.hop; ++i) {
          out[i] = (overlap[i] + late[i] * a.window[i]) * a.scale[i];
          overlap[i] = late[a.hop + i] * a.window[a.hop + i];
        }
      } else {
        for (int64_t i = 0; i < a.hop; ++i) out[i] = overlap[i] * a.scale[i];
        std::memset(overlap, 0, a.hop * sizeof(float));
      }
    }
  }
};

}  // namespace
}  // namespace ussfast
