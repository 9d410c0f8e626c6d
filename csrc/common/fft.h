// Real Fourier transforms by a team of threads, in memory that they share. Stockham's algorithm: every pass reads one
// buffer and writes the other, and the order of the result needs no repair.
#pragma once

#include "butterflies.h"
#include "fft_plan.h"

namespace ussfast {

// Where number i of a buffer lies. One place in 17 stays empty, so that steps of 2, 4, 8 or 16 numbers, in which the
// passes write, come to different banks of shared memory.
USSFAST_HD int slot(int i) { return i + i / 16; }
USSFAST_HD int slots(int count) { return slot(count - 1) + 1; }

template <int R, class Team>
USSFAST_HD void fft_pass(Team team, const FftPass& pass, int half, const Complex* table, const Complex* in,
                         Complex* out) {
  const int count = half / R;
  for (int k = team.rank(); k < count; k += team.size()) {
    const int whole = int(uint32_t(k) * pass.magic >> kMagicBits), rest = k - whole * pass.stride;
    Complex v[R];
    USSFAST_UNROLL
    for (int j = 0; j < R; ++j) v[j] = in[slot(k + j * count)];
    if (pass.stride > 1) {
      // Powers of one root cost less than reading them, and no more than a few roundings.
      Complex power[R];
      power[1] = table[pass.table + rest];
      v[1] = v[1] * power[1];
      USSFAST_UNROLL
      for (int j = 2; j < R; ++j) {
        power[j] = power[j / 2] * power[j - j / 2];
        v[j] = v[j] * power[j];
      }
    }
    Butterfly<R>::run(v);
    const int first = whole * pass.stride * R + rest;
    USSFAST_UNROLL
    for (int j = 0; j < R; ++j) out[slot(first + j * pass.stride)] = v[j];
  }
}

// Complex transform of plan.half numbers in `a`, which the team has finished writing. Returns the buffer with the
// result, which all may read: `a` or `b`, both [slots(plan.half)].
template <class Team>
USSFAST_HD Complex* fft(Team team, const FftPlan& plan, const Complex* table, Complex* a, Complex* b) {
  for (int p = 0; p < plan.passes; ++p) {
    const FftPass& pass = plan.pass[p];
    switch (pass.radix) {
      case 2: fft_pass<2>(team, pass, plan.half, table, a, b); break;
      case 3: fft_pass<3>(team, pass, plan.half, table, a, b); break;
      case 4: fft_pass<4>(team, pass, plan.half, table, a, b); break;
      case 5: fft_pass<5>(team, pass, plan.half, table, a, b); break;
      default: fft_pass<8>(team, pass, plan.half, table, a, b); break;
    }
    team.sync();
    Complex* const other = a;
    a = b;
    b = other;
  }
  return a;
}

// Real transform of n = 2 * plan.half samples. a: their pairs, (x[2j], x[2j + 1]) at slot(j), which the team has
// finished writing. Calls store(k, bin) for k = 0 .. n / 2, each by one thread.
template <class Team, class Store>
USSFAST_HD void real_fft(Team team, const FftPlan& plan, const Complex* table, Complex* a, Complex* b,
                         const Store& store) {
  const int half = plan.half;
  const Complex* const z = fft(team, plan, table, a, b);
  for (int k = team.rank(); 2 * k <= half; k += team.size()) {
    const Complex low = z[slot(k)], high = conj(z[slot(k == 0 ? 0 : half - k)]);
    // Transforms of the samples with even and with odd index: E and O.
    const Complex even = 0.5f * (low + high), odd = 0.5f * (low - high);
    const Complex turned = times_i(odd) * table[plan.ends + k];  // -O w^k
    store(k, even - turned);
    if (2 * k != half) store(half - k, conj(even + turned));
  }
}

// Inverse of real_fft but for a factor of n. load(k) is bin k, of which the imaginary part is ignored for 0 and n / 2;
// each is asked for once, by one thread. Returns the buffer with the samples, to be read with `sample`.
template <class Team, class Load>
USSFAST_HD const Complex* inverse_real_fft(Team team, const FftPlan& plan, const Complex* table, Complex* a,
                                           Complex* b, const Load& load) {
  const int half = plan.half;
  for (int k = team.rank(); 2 * k <= half; k += team.size()) {
    Complex low = load(k), high = 2 * k == half ? low : load(half - k);
    if (k == 0) low.im = high.im = 0.0f;
    const Complex even = low + conj(high), odd = (low - conj(high)) * conj(table[plan.ends + k]);
    // With real and imaginary parts exchanged before and after it, the forward transform is the inverse one.
    a[slot(k)] = swapped(even + times_i(odd));
    if (k != 0 && 2 * k != half) a[slot(half - k)] = swapped(conj(even) + times_i(conj(odd)));
  }
  team.sync();
  return fft(team, plan, table, a, b);
}

USSFAST_HD float sample(const Complex* z, int i) {
  const Complex pair = z[slot(i / 2)];
  return i % 2 ? pair.re : pair.im;
}

}  // namespace ussfast
