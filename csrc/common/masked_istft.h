// masked_istft: a run of hops of one signal by a team of threads: mask times mixture, inverse transforms, overlap-add.
#pragma once

#include "fft.h"

namespace ussfast {

struct MaskedIstftArgs {
  const void* mask;     // pairs of float32 or bfloat16
  const Complex* spec;  // nullptr: `mask` is the spectrum
  const float* window;
  const Complex* table;
  float* y;  // [streams, sources, samples]
  // Steps from one to the next, in pairs; bins are adjacent.
  int64_t mask_stream, mask_source, mask_frame, spec_stream, spec_frame;
  int64_t streams, sources, frames, samples;
  int n_fft, hop, window_length;
  float scale;  // on the samples of the inverse transform
  int run;      // hops of a team
  FftPlan plan;

  // Returned sample at which the window of frame t begins, of which the first frame's middle is sample 0.
  USSFAST_HD int64_t begin(int64_t t) const { return t * hop + (n_fft - window_length) / 2 - n_fft / 2; }
  // Hop t is the first `hop` samples of window t, which no later frame reaches. These hops have samples to return:
  USSFAST_HD int64_t first_hop() const { return -begin(0) / hop; }
  USSFAST_HD int64_t end_hop() const { return (samples - begin(0) + hop - 1) / hop; }
  // Frames before hop t that reach into it.
  USSFAST_HD int reach() const { return (window_length - 1) / hop; }
  USSFAST_HD int64_t runs() const { return (end_hop() - first_hop() + run - 1) / run; }  // of one signal
};

// Both neighbours compute the frames that they share, so runs should be long; but there should also be work for
// `places` teams at once, if there are so many hops.
inline int masked_istft_run(const MaskedIstftArgs& args, int64_t places) {
  const int64_t hops = (args.end_hop() - args.first_hop()) * args.streams * args.sources;
  const int64_t even = (hops + places - 1) / places, longest = 16 * (args.reach() + 1);
  return int(even < 1 ? 1 : even < longest ? even : longest);
}

// Bytes of memory that a team shares.
inline int64_t masked_istft_memory(const FftPlan& plan, int window_length) {
  return 2 * int64_t(sizeof(Complex)) * slots(plan.half) + int64_t(sizeof(float)) * window_length;
}

// The summed squared window over sample i of hop t.
USSFAST_HD float window_weight(const MaskedIstftArgs& args, int64_t t, int i) {
  const int64_t late = t - args.frames + 1;  // hops behind the last frame still hear the frames before
  float sum = 0.0f;
  for (int64_t m = late < 0 ? 0 : late; m <= t && i + m * args.hop < args.window_length; ++m) {
    const float value = args.window[i + m * args.hop];
    sum += value * value;
  }
  return sum;
}

// Samples of frame t before the window, in one of the two buffers.
template <class Pair, class Team>
USSFAST_HD const Complex* masked_frame(Team team, const MaskedIstftArgs& args, int64_t signal, int64_t t, Complex* a,
                                       Complex* b) {
  const int64_t stream = signal / args.sources, source = signal % args.sources;
  const Pair* const mask = static_cast<const Pair*>(args.mask) + stream * args.mask_stream +
                           source * args.mask_source + t * args.mask_frame;
  const Complex* const spec = args.spec ? args.spec + stream * args.spec_stream + t * args.spec_frame : nullptr;
  return inverse_real_fft(team, args.plan, args.table, a, b,
                          [&](int k) { return spec ? wide(mask[k]) * spec[k] : wide(mask[k]); });
}

// index: signal * runs + run. memory: masked_istft_memory(...) bytes. Every sample is the sum of its frames in their
// order, whatever the runs and teams: the result is always the same.
template <class Pair, class Team>
USSFAST_HD void masked_istft_run_of(Team team, const MaskedIstftArgs& args, int64_t index, Complex* memory) {
  Complex* const other = memory + slots(args.plan.half);
  // Sums of the newest `window_length` samples: sample begin(t) + i is at (at + i) % window_length.
  float* const sums = reinterpret_cast<float*>(other + slots(args.plan.half));
  const int64_t runs = args.runs(), signal = index / runs;
  const int64_t own = args.first_hop() + index % runs * args.run;
  const int64_t end = own + args.run < args.end_hop() ? own + args.run : args.end_hop();
  const int64_t first = own > args.reach() ? own - args.reach() : 0;
  const int before = (args.n_fft - args.window_length) / 2;
  float* const y = args.y + signal * args.samples;
  int at = 0;
  for (int64_t t = first; t < end; ++t) {
    const Complex* const frame =
        t < args.frames ? masked_frame<Pair>(team, args, signal, t, memory, other) : nullptr;
    for (int i = team.rank(); i < args.window_length; i += team.size()) {
      float& sum = sums[at + i < args.window_length ? at + i : at + i - args.window_length];
      float value = t > first && i < args.window_length - args.hop ? sum : 0.0f;
      if (frame) value += sample(frame, before + i) * (args.window[i] * args.scale);
      const int64_t to = args.begin(t) + i;
      if (i >= args.hop) {
        sum = value;
      } else if (t >= own && to >= 0 && to < args.samples) {
        const float weight = window_weight(args, t, i);
        y[to] = weight >= 1e-11f ? value / weight : 0.0f;  // the bound of the reference
      }
    }
    at = (at + args.hop) % args.window_length;
    team.sync();
  }
}

}  // namespace ussfast
