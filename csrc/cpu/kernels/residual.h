// Layers x + outer(mix(inner(RMSNorm(x)))), where mix is all that differs: what comes before and after it, and the
// gradients of that.
//
// Work is cut into patches of some frames by some bands of one item; their rows lie in a kernel's buffers band by band,
// frame after frame, each padded to whole panels with zeros. What inner(...) gives is computed again in the backward
// pass: as fast as reading it back would be, and nothing but x is kept.
#pragma once

#include "rows.h"
#include "table.h"

namespace ussfast {
namespace {

struct Patch {
  int64_t item, frame, frames, band, bands;

  int64_t rows() const { return frames * bands; }
};

template <class P>
struct ResidualLayer {
  using Element = typename P::Element;
  static constexpr bool kPairs = P::kGroup == 2;
  static constexpr int64_t kSpace = 16;  // rows that tiles may reach beyond the end

  const ResidualArgs& a;
  const int64_t channels, width, mixed, units, words;
  const ResidualSums at;

  explicit ResidualLayer(const ResidualArgs& args)
      : a(args),
        channels(args.channels),
        width(round_up(channels, kPanel)),
        mixed(args.mixed),
        units(3 * mixed),
        words((channels + P::kGroup - 1) / P::kGroup),
        at(channels, mixed, kPanel) {}

  // Buffers of a patch. Those with pairs are empty in float32, whose products over rows read the rows in place.
  struct Buffers {
    float *units, *scales;  // units: what inner(...) gives
    Element *in, *mix;      // normalised rows; what mix(...) gives
    float* out;             // outer(...), without the residual; in the backward pass the gradients of `in`
    // Of the backward pass.
    float* grad_mix;
    Element *grad, *grad_units;
    uint32_t *in_pairs, *mix_pairs, *grad_pairs, *unit_pairs;
    char* rest;  // of the kernel that calls
  };

  Buffers buffers(char* base, int64_t rows, bool backward) const {
    const int64_t space = round_up(rows, 2) + kSpace;
    char* next = base;
    const auto take = [&](int64_t bytes) {
      char* const now = next;
      next += round_up(bytes, 64);
      return now;
    };
    const auto pairs = [&](int64_t columns) {
      return (uint32_t*)take(backward && kPairs ? space / 2 * columns * 4 : 0);
    };
    const auto elements = [&](int64_t columns) { return (Element*)take(space * columns * sizeof(Element)); };
    const auto floats = [&](int64_t columns) { return (float*)take(space * columns * sizeof(float)); };
    Buffers b;
    b.units = floats(units), b.scales = floats(1);
    b.in = elements(width), b.mix = elements(mixed), b.out = floats(width);
    b.grad_mix = floats(backward ? mixed : 0);
    b.grad = elements(backward ? width : 0), b.grad_units = elements(backward ? units : 0);
    b.in_pairs = pairs(width), b.mix_pairs = pairs(mixed), b.grad_pairs = pairs(width), b.unit_pairs = pairs(units);
    b.rest = next;
    return b;
  }
  int64_t bytes(int64_t rows, bool backward) const { return buffers(nullptr, rows, backward).rest - (char*)nullptr; }

  // Runs body(row of the patch, its place in x, its place in y) for all rows.
  template <class Body>
  USSFAST_INLINE void each_row(const Patch& p, const Body& body) const {
    int64_t row = 0;
    for (int64_t f = 0; f < p.frames; ++f) {
      const int64_t x = p.item * a.x_item + (p.frame + f) * a.x_frame + p.band * a.x_band;
      const int64_t y = ((p.item * a.frames + p.frame + f) * a.bands + p.band) * channels;
      for (int64_t b = 0; b < p.bands; ++b) body(row++, x + b * a.x_band, y + b * channels);
    }
  }

  // Normalised rows, and inner(...) of them without its bias.
  void before(const Patch& p, const Buffers& b) const {
    const int64_t rows = p.rows();
    each_row(p, [&](int64_t row, int64_t place, int64_t) __attribute__((always_inline)) {
      const float* x = a.x + place;
      const float scale = b.scales[row] = scale_of_row(x, channels, a.eps);
      for (int64_t c = 0; c < width; c += kLanes) {
        const int64_t n = channels - c;
        put(b.in + row * width + c, load_some(x + c, n) * scale * load_some(a.norm + c, n));
      }
    });
    clear(b.in, rows, width);
    for (int64_t u = 0; u < units; u += kPanel)
      product<P, 2, false>(rows, b.in, width * sizeof(Element), 4, a.inner + u * words * 4, kPanel * 4, words,
                           b.units + u, units * 4);
  }

  // x + outer(what is in b.mix).
  void after(const Patch& p, const Buffers& b) const {
    const int64_t depth = mixed / P::kGroup;
    for (int64_t c = 0; c < width; c += kPanel)
      product<P, 2, false>(p.rows(), b.mix, mixed * sizeof(Element), 4, a.outer + c * depth * 4, kPanel * 4, depth,
                           b.out + c, width * 4);
    each_row(p, [&](int64_t row, int64_t x, int64_t y) __attribute__((always_inline)) {
      for (int64_t c = 0; c < channels; c += kLanes) {
        const int64_t n = channels - c;
        store_some(a.y + y + c, load_some(a.x + x + c, n) + load(b.out + row * width + c), n);
      }
    });
  }

  // Gradients of what mix(...) gives, to b.grad_mix.
  void after_backward(const Patch& p, const Buffers& b) const {
    each_row(p, [&](int64_t row, int64_t, int64_t y) __attribute__((always_inline)) {
      for (int64_t c = 0; c < width; c += kLanes)
        put(b.grad + row * width + c, load_some(a.grad + y + c, channels - c));
    });
    clear(b.grad, p.rows(), width);
    for (int64_t m = 0; m < mixed; m += kPanel)
      product<P, 2, false>(p.rows(), b.grad, width * sizeof(Element), 4, a.outer_back + m * words * 4, kPanel * 4, words,
                           b.grad_mix + m, mixed * 4);
  }

  // All other gradients, from b.grad_units and b.mix.
  void before_backward(const Patch& p, const Buffers& b, float* sums) const {
    const int64_t rows = p.rows(), depth = units / P::kGroup;
    clear(b.mix, rows, mixed), clear(b.grad_units, rows, units);
    for (int64_t c = 0; c < width; c += kPanel)
      product<P, 2, false>(rows, b.grad_units, units * sizeof(Element), 4, a.inner_back + c * depth * 4, kPanel * 4, depth,
                           b.out + c, width * 4);
    weights_backward(rows, b, sums);
    each_row(p, [&](int64_t row, int64_t place, int64_t y) __attribute__((always_inline)) {
      const float *x = a.x + place, *from = b.out + row * width, scale = b.scales[row];
      const float back = norm_dot(x, from, a.norm, channels, scale, sums + at.norm);
      for (int64_t c = 0; c < channels; c += kLanes) {
        const int64_t n = channels - c;
        const F inner = load(from + c) * load_some(a.norm + c, n) * scale - load_some(x + c, n) * back;
        store_some(a.grad_x + y + c, load_some(a.grad + y + c, n) + inner, n);
      }
    });
  }

 private:
  // The row that fills up the last pair.
  void clear(Element* rows, int64_t count, int64_t columns) const {
    if (kPairs && count % 2) std::memset(rows + count * columns, 0, columns * sizeof(Element));
  }

  // Products over rows.
  void weights_backward(int64_t rows, const Buffers& b, float* sums) const {
    const void *in = b.in, *mix = b.mix, *grad = b.grad, *grad_units = b.grad_units;
    const int64_t depth = (rows + P::kGroup - 1) / P::kGroup;
    if constexpr (kPairs) {
      pair_rows(b.in, depth, width, b.in_pairs), in = b.in_pairs;
      pair_rows(b.mix, depth, mixed, b.mix_pairs), mix = b.mix_pairs;
      pair_rows(b.grad, depth, width, b.grad_pairs), grad = b.grad_pairs;
      pair_rows(b.grad_units, depth, units, b.unit_pairs), grad_units = b.unit_pairs;
    }
    for (int64_t c = 0; c < width; c += kPanel)
      product<P, 2, true>(units, grad_units, 4, units * 4, (const char*)in + c * 4, width * 4, depth, sums + c, width * 4);
    for (int64_t m = 0; m < mixed; m += kPanel)
      product<P, 2, true>(channels, grad, 4, width * 4, (const char*)mix + m * 4, mixed * 4, depth,
                          sums + at.outer + m, mixed * 4);
  }
};

}  // namespace
}  // namespace ussfast
