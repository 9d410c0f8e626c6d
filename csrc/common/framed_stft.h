// framed_stft: one frame of one row, by a team of threads.
#pragma once

#include "fft.h"

namespace ussfast {

struct FramedStftArgs {
  const float* ring;  // [rows, capacity], samples adjacent
  const int64_t* begin;
  const float* window;
  const Complex* table;
  Complex* y;  // [rows, frames, bins]
  int64_t row;  // from one row of the ring to the next, in samples
  int64_t rows, frames, capacity, hop;
  int n_fft, window_length;
  FftPlan plan;
};

// Bytes of memory that a team shares.
inline int64_t framed_stft_memory(const FftPlan& plan) { return 2 * int64_t(sizeof(Complex)) * slots(plan.half); }

// A sample of the frame, under the window in its middle. from: position in the ring of the frame's first sample.
USSFAST_HD float windowed(const FramedStftArgs& args, const float* row, int64_t from, int i) {
  const int in_window = i - (args.n_fft - args.window_length) / 2;
  if (in_window < 0 || in_window >= args.window_length) return 0.0f;
  const int64_t at = from + i;  // a frame is no longer than the ring
  return row[at < args.capacity ? at : at - args.capacity] * args.window[in_window];
}

// index: row * frames + frame. memory: framed_stft_memory(plan) bytes.
template <class Team>
USSFAST_HD void framed_stft_frame(Team team, const FramedStftArgs& args, int64_t index, Complex* memory) {
  const int64_t row = index / args.frames, frame = index % args.frames;
  int64_t from = args.begin[row] % args.capacity;
  if (from < 0) from += args.capacity;
  from = (from + frame * args.hop) % args.capacity;
  const float* const samples = args.ring + row * args.row;
  for (int j = team.rank(); j < args.plan.half; j += team.size())
    memory[slot(j)] = {windowed(args, samples, from, 2 * j), windowed(args, samples, from, 2 * j + 1)};
  team.sync();
  Complex* const y = args.y + index * (args.plan.half + 1);
  real_fft(team, args.plan, args.table, memory, memory + slots(args.plan.half),
           [&](int k, Complex bin) { y[k] = bin; });
}

}  // namespace ussfast
