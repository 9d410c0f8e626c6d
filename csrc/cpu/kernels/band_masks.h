// Band tokens -> masks: RMSNorm -> SwiGLU -> masks of the band's bins, and weights with which the bins' features add to
// them.
//
// A block is a band in some frames of an item, for all sources: its rows are frames, in each the sources. They are
// gathered while they are normalised; the last layer scatters them. Blocks of a band follow each other, so that its
// weights stay in the cache. Weights are packed, see MaskPanels.
#pragma once

#include "conv_ffn_backward.h"
#include "ends.h"
#include "table.h"

namespace ussfast {
namespace {

// Writes the first n lanes, n > 0. Tails of bands are short, and a copy of unknown size is a call.
USSFAST_INLINE void store_first(float* to, F value, int64_t n) {
  if (n >= kLanes) return store(to, value);
#if defined(USSFAST_AVX512)
  _mm512_mask_storeu_ps(to, (1u << n) - 1, (__m512)value);
#elif defined(USSFAST_AVX2)
  _mm256_maskstore_ps(to, (__m256i)(I{0, 1, 2, 3, 4, 5, 6, 7} < int32_t(n)), (__m256)value);
#else
  store_some(to, value, n);
#endif
}
USSFAST_INLINE F load_first(const float* from, int64_t n) { return n > 0 ? First(n).load(from) : F{}; }

// (a0, b0, a1, b1, ...) in two vectors, from a and b; and back.
template <size_t... L>
USSFAST_INLINE void interleave(F& a, F& b, std::index_sequence<L...>) {
  const F low = __builtin_shufflevector(a, b, (L / 2 + L % 2 * kLanes)...);
  b = __builtin_shufflevector(a, b, (kLanes / 2 + L / 2 + L % 2 * kLanes)...);
  a = low;
}
template <size_t... L>
USSFAST_INLINE void deinterleave(F& a, F& b, std::index_sequence<L...>) {
  const F even = __builtin_shufflevector(a, b, (2 * L)...);
  b = __builtin_shufflevector(a, b, (2 * L + 1)...);
  a = even;
}
constexpr auto kEachLane = std::make_index_sequence<kLanes>();

// What both directions share: the geometry, and normalised rows.
template <class P>
struct BandMasksBlock {
  using Element = typename P::Element;
  static constexpr int64_t kRows = 192;  // of a block, if a frame has no more
  static constexpr int64_t kSpace = 16;  // rows that tiles may reach beyond the end

  // A block of one band.
  struct Place {
    int64_t band, item, first, frames, rows, width, edge;
    int64_t row;  // of the first, among all rows that are kept
  };

  const BandMasksArgs& a;
  const int64_t sources, dim, units, hidden, count;
  const int64_t run_frames, runs, per_band;  // frames of a block; blocks of an item, of a band
  const int64_t space;                       // rows of a block's buffers

  explicit BandMasksBlock(const BandMasksArgs& args)
      : a(args),
        sources(a.sources),
        dim(a.dim),
        units(a.units),
        hidden(a.units / 2),
        count(a.count),
        run_frames(std::max<int64_t>(1, std::min(kRows / sources, a.frames))),
        runs((a.frames + run_frames - 1) / run_frames),
        per_band(a.batch * runs),
        space(round_up(run_frames * sources, 2) + kSpace) {}

  Place place(int64_t band, int64_t block) const {
    Place p;
    p.band = band, p.item = block / runs, p.first = block % runs * run_frames;
    p.frames = std::min(run_frames, a.frames - p.first), p.rows = p.frames * sources;
    p.width = a.width(band), p.edge = a.edges[band];
    p.row = ((band * a.batch + p.item) * a.frames + p.first) * sources;
    return p;
  }

  MaskPanels panels(int64_t band) const { return MaskPanels(a, band, kLanes, P::kGroup); }
  const char* packed(int64_t band) const { return a.packed + a.packed_at[band]; }

  // Row of x, or of another tensor [batch, sources, frames, ...], that has n values per frame.
  USSFAST_INLINE int64_t frame(const Place& p, int64_t row, int64_t n) const {
    return ((p.item * sources + row % sources) * a.frames + p.first + row / sources) * n;
  }
  USSFAST_INLINE const float* token(const Place& p, int64_t row) const {
    return a.x + frame(p, row, a.bands * dim) + p.band * dim;
  }

  void read(const Place& p, Element* to, float* scales) const {
    for (int64_t n = 0; n < p.rows; ++n, to += dim) {
      const float* x = token(p, n);
      if (n + 8 < p.rows)  // rows are pages apart: no hardware foresees that
        for (int64_t c = 0; c < dim; c += 16) __builtin_prefetch(token(p, n + 8) + c);
      F sum = {};
      for (int64_t c = 0; c < dim; c += kLanes) {
        const F value = load_first(x + c, dim - c);
        sum += value * value;
      }
      const float scale = 1.0f / std::sqrt(sum_of_lanes(sum) / float(dim) + a.eps);
      if (scales != nullptr) scales[n] = scale;
      for (int64_t c = 0; c < dim; c += kLanes)
        put_some(to + c, load_first(x + c, dim - c) * scale * load_first(a.norm + c, dim - c), dim - c);
    }
    std::memset((char*)to, 0, (space - p.rows) * dim * sizeof(Element));
  }
};

template <class P>
struct BandMasks : BandMasksBlock<P> {
  using Base = BandMasksBlock<P>;
  using typename Base::Element, typename Base::Place;
  using Base::a, Base::sources, Base::dim, Base::units, Base::hidden, Base::count, Base::run_frames, Base::per_band;
  using Base::space;

  const int64_t weigh_width;

  explicit BandMasks(const BandMasksArgs& args) : Base(args), weigh_width(round_up(2 * count, kPanel)) {}

  int64_t blocks() const { return a.bands * per_band; }
  int64_t in_bytes() const { return round_up((space * dim + kPanel) * sizeof(Element), 64); }
  int64_t hidden_bytes() const { return round_up(space * hidden * sizeof(Element), 64); }
  int64_t scratch() const {
    return in_bytes() + hidden_bytes() + (space * weigh_width + run_frames * round_up(count, kLanes) * kLanes) * 4;
  }

  void run(int64_t block, char* scratch) const {
    const Place p = this->place(block / per_band, block % per_band);
    const MaskPanels at = this->panels(p.band);
    const char* const base = this->packed(p.band);
    Element* const in = (Element*)scratch;
    Element* const h = (Element*)(scratch + in_bytes());
    float* const weights = (float*)((char*)h + hidden_bytes());
    float* const features = weights + space * weigh_width;
    this->read(p, in, nullptr);
    expand(p, at, base, in, h);
    for (int64_t c = 0; c < weigh_width; c += kPanel)
      product<P, 2, false>(p.rows, h, hidden * sizeof(Element), 4, base + (at.weigh + c * at.hidden_words) * 4,
                           kPanel * 4, at.hidden_words, weights + c, weigh_width * 4);
    if (a.weights != nullptr)
      for (int64_t n = 0; n < p.rows; ++n)
        for (int64_t c = 0; c < 2 * count; c += kLanes)
          store_first(a.weights + (p.row + n) * 2 * count + c, load(weights + n * weigh_width + c), 2 * count - c);
    for (int64_t bin = 0; bin < p.width; bin += kLanes) {
      read_features(p, bin, features);
      masks(p, bin, at, base, h, weights, features);
    }
  }

 private:
  // Gated layer of all rows.
  void expand(const Place& p, const MaskPanels& at, const char* base, const Element* in, Element* h) const {
    const int64_t row = dim * sizeof(Element);
    F acc[3 * kStep][2];
    for (int64_t u = 0; u < units; u += kPanel)
      for_each_tile(p.rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
        tile<P, size, 2, false>((const char*)in + m * row, row, 4, base + u * at.dim_words * 4, kPanel * 4,
                                at.dim_words, (char*)acc, sizeof(acc[0]));
        Element* to = h + m * hidden + u / 2;
        for (int r = 0; r < size; ++r, to += hidden) {
          const F value = acc[r][0], gate = acc[r][1];
          put(to, value * silu(gate));
          if (a.saved != nullptr && m + r < p.rows) {
            Element* keep = (Element*)a.saved + (p.row + m + r) * units + u;
            put(keep, value);
            put(keep + kLanes, gate);
          }
        }
      });
  }

  // Features of as many bins as a vector has lanes, [frames, features, lanes]; zeros behind the band.
  void read_features(const Place& p, int64_t bin, float* to) const {
    const int64_t rows = std::min<int64_t>(kLanes, p.width - bin), pitch = round_up(count, kLanes);
    for (int64_t t = 0; t < p.frames; ++t, to += pitch * kLanes) {
      const float* from = a.features + ((p.item * a.frames + p.first + t) * a.bins() + p.edge + bin) * count;
      for (int64_t f = 0; f < count; f += kLanes) {
        const First some(count - f);
        F m[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) m[i] = i < rows ? some.load(from + i * count + f) : F{};
        transpose(m);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to + (f + i) * kLanes, m[i]);
      }
    }
  }

  void masks(const Place& p, int64_t bin, const MaskPanels& at, const char* base, const Element* h,
             const float* weights, const float* features) const {
    const int64_t row = hidden * sizeof(Element), pitch = round_up(count, kLanes) * kLanes, left = 2 * (p.width - bin);
    const float* const bias = (const float*)base + at.bias + 2 * bin;
    const F real_bias = load(bias), imaginary_bias = load(bias + kLanes);
    F acc[3 * kStep][2];
    int64_t s = 0, t = 0;
    for_each_tile(p.rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
      tile<P, size, 2, false>((const char*)h + m * row, row, 4, base + (at.outer + 2 * bin * at.hidden_words) * 4,
                              kPanel * 4, at.hidden_words, (char*)acc, sizeof(acc[0]));
      for (int r = 0; r < size && m + r < p.rows; ++r) {
        F real = acc[r][0] + real_bias, imaginary = acc[r][1] + imaginary_bias;
        const float* weight = weights + (m + r) * weigh_width;
        const float* feature = features + t * pitch;
        for (int64_t f = 0; f < count; ++f, feature += kLanes) {
          const F value = load(feature);
          real += weight[f] * value;
          imaginary += weight[count + f] * value;
        }
        interleave(real, imaginary, kEachLane);
        float* to = a.y + ((p.item * sources + s) * a.frames + p.first + t) * 2 * a.bins() + 2 * (p.edge + bin);
        store_first(to, real, left);
        if (left > kLanes) store_first(to + kLanes, imaginary, left - kLanes);
        if (++s == sources) s = 0, ++t;
      }
    });
  }
};

}  // namespace
}  // namespace ussfast
