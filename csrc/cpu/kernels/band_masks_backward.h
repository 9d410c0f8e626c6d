// Gradients of band_masks.h, from the pre-activations and weights of features that its forward pass kept.
//
// Gradients of a row are those of its real part (bins, then weights of features), then of its imaginary part: one product
// leads all of them back to the hidden units, and one makes the gradients of both matrices. Gradients of a band's weights
// are added up in a few parts that do not depend on the number of threads; band_masks.cpp adds them in their order.
#pragma once

#include "band_masks.h"

namespace ussfast {
namespace {

template <class P>
struct BandMasksBackward : BandMasksBlock<P> {
  using Base = BandMasksBlock<P>;
  using typename Base::Element, typename Base::Place;
  using Base::a, Base::sources, Base::dim, Base::units, Base::hidden, Base::count, Base::per_band, Base::space;
  static constexpr bool kPairs = P::kGroup == 2;

  // Buffers of a block. Those with pairs are empty in float32, whose products over rows read the rows in place.
  struct Buffers {
    Element *in, *h, *grad_units, *heads;  // heads: the gradients below; in float32 the same memory
    uint32_t *in_pairs, *h_pairs, *unit_pairs, *head_pairs;
    float *grad, *grad_in, *scales, *features, *found;
    int64_t bytes;
  };

  const int64_t widest, feature_width, channels;
  const int64_t in_pitch, unit_pitch, hidden_pitch;  // of rows

  explicit BandMasksBackward(const BandMasksArgs& args)
      : Base(args),
        widest(widest_of(args)),
        feature_width(round_up(count, kLanes)),
        channels(round_up(dim, kPanel)),
        in_pitch(spread(dim)),
        unit_pitch(spread(units)),
        hidden_pitch(spread(hidden)) {}

  int64_t blocks() const { return a.bands * a.parts; }
  int64_t scratch() const { return buffers(nullptr).bytes; }

  void run(int64_t chunk, char* scratch) const {
    const int64_t band = chunk / a.parts, part = chunk % a.parts;
    const MaskSums at(a, band, kLanes);
    float* const sums = a.sums + a.sums_at[band] + part * at.size;
    std::memset(sums, 0, at.size * sizeof(float));
    const Buffers b = buffers(scratch);
    for (int64_t i = per_band * part / a.parts; i < per_band * (part + 1) / a.parts; ++i)
      run_block(this->place(band, i), at, b, sums);
  }

 private:
  static int64_t widest_of(const BandMasksArgs& a) {
    int64_t widest = 0;
    for (int64_t band = 0; band < a.bands; ++band) widest = std::max(widest, a.width(band));
    return widest;
  }

  Buffers buffers(char* base) const {
    int64_t used = 0;
    const auto take = [&](int64_t bytes) {
      char* const at = base + used;
      used += round_up(bytes, 64);
      return at;
    };
    const int64_t heads = 2 * (widest + count);
    const auto pairs = [&](int64_t columns) { return (uint32_t*)take(kPairs ? space / 2 * columns * 4 + 256 : 0); };
    Buffers b;
    b.in = (Element*)take((space * in_pitch + 2 * kPanel) * sizeof(Element));
    b.h = (Element*)take(space * hidden_pitch * sizeof(Element));
    b.grad_units = (Element*)take(space * unit_pitch * sizeof(Element));
    b.grad = (float*)take((space * heads + kPanel) * sizeof(float));
    b.heads = kPairs ? (Element*)take((space * heads + kPanel) * sizeof(Element)) : (Element*)b.grad;
    b.in_pairs = pairs(in_pitch), b.h_pairs = pairs(hidden_pitch), b.unit_pairs = pairs(unit_pitch);
    b.head_pairs = pairs(heads);
    b.grad_in = (float*)take(space * channels * sizeof(float));
    b.scales = (float*)take(space * sizeof(float));
    b.features = (float*)take(widest * feature_width * sizeof(float));
    b.found = (float*)take((std::max(widest, 2 * sources) + kSpareRows) * feature_width * sizeof(float));
    b.bytes = used;
    return b;
  }

  void run_block(const Place& p, const MaskSums& at, const Buffers& b, float* sums) const {
    const MaskPanels panels = this->panels(p.band);
    const char* const base = this->packed(p.band);
    const int64_t half = p.width + count, heads = 2 * half;
    this->read(p, in_pitch, b.in, b.scales);
    read_grad(p, half, b, sums + at.bias);
    for (int64_t t = 0; t < p.frames; ++t) weigh_backward(p, t, half, b);
    std::memset(b.grad + p.rows * heads, 0, (space - p.rows) * heads * sizeof(float));
    if constexpr (kPairs)
      for (int64_t i = 0; i < space * heads; i += kLanes) put(b.heads + i, load(b.grad + i));
    units_backward(p, heads, panels, base, b);
    if (!a.frozen) weights_backward(p, heads, at, b, sums);
    for (int64_t c = 0; c < channels; c += kPanel)
      product<P, 2, false>(p.rows, b.grad_units, unit_pitch * sizeof(Element), 4,
                           base + (panels.inner_back + c * panels.unit_words) * 4, kPanel * 4, panels.unit_words,
                           b.grad_in + c, channels * 4);
    norm_backward(p, b, sums + at.norm);
  }

  // Gradients of the masks, real parts apart from imaginary ones.
  void read_grad(const Place& p, int64_t half, const Buffers& b, float* bias) const {
    for (int64_t n = 0; n < p.rows; ++n) {
      const float* from = a.grad + this->frame(p, n, 2 * a.bins()) + 2 * p.edge;
      if (n + 8 < p.rows) {
        const float* ahead = a.grad + this->frame(p, n + 8, 2 * a.bins()) + 2 * p.edge;
        for (int64_t c = 0; c < 2 * p.width; c += 16) __builtin_prefetch(ahead + c);
      }
      float* to = b.grad + n * 2 * half;
      for (int64_t bin = 0; bin < p.width; bin += kLanes) {
        const int64_t left = p.width - bin;
        F real = load_first(from + 2 * bin, 2 * left), imaginary = load_first(from + 2 * bin + kLanes, 2 * left - kLanes);
        deinterleave(real, imaginary, kEachLane);
        store_first(to + bin, real, left);
        store_first(to + half + bin, imaginary, left);
        store(bias + 2 * bin, load(bias + 2 * bin) + real);
        store(bias + 2 * bin + kLanes, load(bias + 2 * bin + kLanes) + imaginary);
      }
    }
  }

  // Of one frame: gradients of the weights of features, which all bins share, and of the features, which all sources do.
  void weigh_backward(const Place& p, int64_t t, int64_t half, const Buffers& b) const {
    const int64_t frame = ((p.item * a.frames + p.first + t) * a.bins() + p.edge) * count;
    float* const grad = b.grad + t * sources * 2 * half;
    for (int64_t w = 0; w < p.width; ++w)
      for (int64_t f = 0; f < count; f += kLanes)
        store(b.features + w * feature_width + f, load_first(a.features + frame + w * count + f, count - f));
    for (int64_t f = 0; f < feature_width; f += kLanes)
      product<Float32, 1, false>(2 * sources, grad, half * 4, 4, b.features + f, feature_width * 4, p.width, b.found + f,
                                 feature_width * 4);
    for (int64_t n = 0; n < 2 * sources; ++n)
      for (int64_t f = 0; f < count; f += kLanes)
        store_first(grad + n * half + p.width + f, load(b.found + n * feature_width + f), count - f);
    if (a.frozen) return;
    const float* weights = a.weights + (p.row + t * sources) * 2 * count;
    for (int64_t f = 0; f < feature_width; f += kLanes)
      product<Float32, 1, false>(p.width, grad, 4, half * 4, weights + f, count * 4, 2 * sources, b.found + f,
                                 feature_width * 4);
    for (int64_t w = 0; w < p.width; ++w)
      for (int64_t f = 0; f < count; f += kLanes)
        store_first(a.grad_features + frame + w * count + f, load(b.found + w * feature_width + f), count - f);
  }

  // Gradients of the pre-activations, and the hidden activations again.
  void units_backward(const Place& p, int64_t heads, const MaskPanels& at, const char* base, const Buffers& b) const {
    const int64_t row = heads * sizeof(Element);
    std::memset(b.grad_units + p.rows * unit_pitch, 0, (space - p.rows) * unit_pitch * sizeof(Element));
    std::memset(b.h + p.rows * hidden_pitch, 0, (space - p.rows) * hidden_pitch * sizeof(Element));
    const Element* const saved = (const Element*)a.saved + p.row * units;
    F acc[3 * kStep][2];
    for (int64_t h = 0; h < hidden; h += kPanel)
      for_each_tile(p.rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
        tile<P, size, 2, false>((const char*)b.heads + m * row, row, 4, base + h * at.head_words * 4, kPanel * 4,
                                at.head_words, (char*)acc, sizeof(acc[0]));
        for (int r = 0; r < size && m + r < p.rows; ++r) {
          const Element* kept = saved + (m + r) * units + 2 * h;
          const Element* ahead = saved + std::min(m + r + 16, p.rows - 1) * units + 2 * h;
          __builtin_prefetch(ahead);
          __builtin_prefetch(ahead + 32);
          Element* to = b.grad_units + (m + r) * unit_pitch + 2 * h;
#pragma GCC unroll 2
          for (int v = 0; v < 2; ++v) {
            const int64_t u = v * kPanel;
            const F value = get(kept + u), gate = get(kept + u + kLanes), grad = acc[r][v];
            const F open = sigmoid(gate), lit = gate * open;
            put(b.h + (m + r) * hidden_pitch + h + v * kLanes, value * lit);
            put(to + u, grad * lit);
            put(to + u + kLanes, grad * value * (open + lit * (1.0f - open)));
          }
        }
      });
  }

  // Products over the rows of the block.
  void weights_backward(const Place& p, int64_t heads, const MaskSums& at, const Buffers& b, float* sums) const {
    const char *in = (const char*)b.in, *h = (const char*)b.h, *grad = (const char*)b.grad_units;
    const char* of_heads = (const char*)b.heads;
    const int64_t depth = (p.rows + P::kGroup - 1) / P::kGroup;
    if constexpr (kPairs) {
      pair_rows(b.in, depth, in_pitch, b.in_pairs);
      pair_rows(b.h, depth, hidden_pitch, b.h_pairs);
      pair_rows(b.grad_units, depth, unit_pitch, b.unit_pairs);
      pair_rows(b.heads, depth, heads, b.head_pairs);
      in = (const char*)b.in_pairs, h = (const char*)b.h_pairs;
      grad = (const char*)b.unit_pairs, of_heads = (const char*)b.head_pairs;
    }
    for (int64_t u = 0; u < units; u += kPanel)
      product<P, 2, true>(dim, in, 4, in_pitch * 4, grad + u * 4, unit_pitch * 4, depth, sums + u, units * 4);
    for (int64_t u = 0; u < hidden; u += kPanel)
      product<P, 2, true>(heads, of_heads, 4, heads * 4, h + u * 4, hidden_pitch * 4, depth, sums + at.heads + u,
                          hidden * 4);
  }

  void norm_backward(const Place& p, const Buffers& b, float* weight) const {
    for (int64_t n = 0; n < p.rows; ++n) {
      const float *x = this->token(p, n), *from = b.grad_in + n * channels;
      float* const to = a.grad_x + (x - a.x);
      const float scale = b.scales[n];
      F dot = {};
      for (int64_t c = 0; c < dim; c += kLanes) {
        const F value = load_first(x + c, dim - c), grad = load(from + c);
        store(weight + c, load(weight + c) + grad * value * scale);
        dot += grad * load_first(a.norm + c, dim - c) * value;
      }
      const float back = sum_of_lanes(dot) / float(dim) * scale * scale * scale;
      for (int64_t c = 0; c < dim; c += kLanes) {
        const F by = load(from + c) * load_first(a.norm + c, dim - c);
        store_first(to + c, by * scale - load_first(x + c, dim - c) * back, dim - c);
      }
    }
  }
};

}  // namespace
}  // namespace ussfast
