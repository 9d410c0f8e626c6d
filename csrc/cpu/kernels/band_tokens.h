// Features of a band's bins -> one token, and back. A block is a band in some rows; blocks of a band follow each other, so
// that its matrix stays in the cache. Gradients of matrices are added up in a few parts, as those of
// band_masks_backward.h.
#pragma once

#include "band_masks.h"

namespace ussfast {
namespace {

template <class P>
struct BandTokensBlock {
  using Element = typename P::Element;
  static constexpr int64_t kRows = 96;
  static constexpr int64_t kSpace = 16;  // rows that tiles may reach beyond the end

  const BandTokensArgs& a;
  const int64_t deepest, dim, channels, per_band;

  explicit BandTokensBlock(const BandTokensArgs& args)
      : a(args), deepest(a.deepest()), dim(a.dim), channels(round_up(dim, kPanel)), per_band((a.rows + kRows - 1) / kRows) {}

  int64_t in_bytes() const { return round_up(((kRows + kSpace) * spread(deepest) + kPanel) * sizeof(Element), 64); }
  int64_t token_bytes() const { return round_up(((kRows + kSpace) * spread(channels) + kPanel) * sizeof(float), 64); }

  float* features(float* base, int64_t band, int64_t row) const {
    return base + (row * a.edges[a.bands] + a.edges[band]) * a.count;
  }

  // Rows of n values, `step` apart, to rows `pitch` apart; zeros behind values and rows.
  void gather(const float* from, int64_t step, int64_t rows, int64_t n, int64_t pitch, Element* to) const {
    for (int64_t r = 0; r < rows; ++r, from += step, to += pitch) {
      if (r + 4 < rows)  // rows are pages apart: no hardware foresees that
        for (int64_t c = 0; c < n; c += 16) __builtin_prefetch(from + 4 * step + c);
      for (int64_t c = 0; c < n; c += kLanes) put_some(to + c, load_first(from + c, n - c), n - c);
      std::memset((char*)(to + n), 0, (pitch - n) * sizeof(Element));
    }
    std::memset((char*)to, 0, (kSpace * pitch + kPanel) * sizeof(Element));
  }
};

template <class P>
struct BandTokens : BandTokensBlock<P> {
  using Base = BandTokensBlock<P>;
  using typename Base::Element;
  using Base::a, Base::dim, Base::channels, Base::per_band, Base::kRows;

  explicit BandTokens(const BandTokensArgs& args) : Base(args) {}

  int64_t blocks() const { return a.bands * per_band; }
  int64_t scratch() const { return this->in_bytes() + this->token_bytes(); }

  void run(int64_t block, char* scratch) const {
    const int64_t band = block / per_band, first = block % per_band * kRows, rows = std::min(kRows, a.rows - first);
    const int64_t depth = a.depth(band), words = (depth + P::kGroup - 1) / P::kGroup;
    const char* const base = a.packed + a.packed_at[band];
    Element* const in = (Element*)scratch;
    float* const out = (float*)(scratch + this->in_bytes());
    this->gather(this->features(const_cast<float*>(a.features), band, first), a.edges[a.bands] * a.count, rows, depth,
                 depth, in);
    for (int64_t c = 0; c < channels; c += kPanel)
      product<P, 2, false>(rows, in, depth * sizeof(Element), 4, base + c * words * 4, kPanel * 4, words, out + c,
                           channels * 4);
    for (int64_t r = 0; r < rows; ++r) {
      float* const to = a.y + ((first + r) * a.bands + band) * dim;
      for (int64_t c = 0; c < dim; c += kLanes) store_first(to + c, load(out + r * channels + c), dim - c);
    }
  }
};

template <class P>
struct BandTokensBackward : BandTokensBlock<P> {
  using Base = BandTokensBlock<P>;
  using typename Base::Element;
  using Base::a, Base::deepest, Base::dim, Base::channels, Base::per_band, Base::kRows, Base::kSpace;
  static constexpr bool kPairs = P::kGroup == 2;

  explicit BandTokensBackward(const BandTokensArgs& args) : Base(args) {}

  int64_t blocks() const { return a.bands * a.parts; }
  int64_t pair_bytes(int64_t columns) const {
    return kPairs ? round_up((kRows / 2 * spread(columns) + kPanel) * 4, 64) : 0;
  }
  int64_t scratch() const {
    return this->in_bytes() + this->token_bytes() + pair_bytes(deepest) + pair_bytes(dim) + (kRows + kSpace) * kPanel * 4;
  }

  void run(int64_t chunk, char* scratch) const {
    const int64_t band = chunk / a.parts, part = chunk % a.parts, depth = a.depth(band);
    const int64_t size = (depth + 4) * channels;
    float* const sums = a.sums + a.sums_at[band] + part * size;
    std::memset(sums, 0, size * sizeof(float));
    for (int64_t i = per_band * part / a.parts; i < per_band * (part + 1) / a.parts; ++i)
      run_block(band, i * kRows, depth, scratch, sums);
  }

 private:
  void run_block(int64_t band, int64_t first, int64_t depth, char* scratch, float* sums) const {
    const int64_t rows = std::min(kRows, a.rows - first), step = a.edges[a.bands] * a.count;
    const int64_t in_pitch = spread(depth), grad_pitch = spread(dim);
    const int64_t words = (dim + P::kGroup - 1) / P::kGroup, pairs = (rows + P::kGroup - 1) / P::kGroup;
    const char* const base = a.packed + a.packed_at[band];
    Element* const in = (Element*)scratch;
    Element* const grad = (Element*)(scratch + this->in_bytes());
    uint32_t* const in_pairs = (uint32_t*)((char*)grad + this->token_bytes());
    uint32_t* const grad_pairs = (uint32_t*)((char*)in_pairs + pair_bytes(deepest));
    float* const out = (float*)((char*)grad_pairs + pair_bytes(dim));
    this->gather(this->features(const_cast<float*>(a.features), band, first), step, rows, depth, in_pitch, in);
    this->gather(a.grad + (first * a.bands + band) * dim, a.bands * dim, rows, dim, grad_pitch, grad);
    const char *in_at = (const char*)in, *grad_at = (const char*)grad;
    if constexpr (kPairs) {
      pair_rows(in, pairs, in_pitch, in_pairs);
      pair_rows(grad, pairs, grad_pitch, grad_pairs);
      in_at = (const char*)in_pairs, grad_at = (const char*)grad_pairs;
    }
    for (int64_t c = 0; c < channels; c += kPanel)
      product<P, 2, true>(depth, in_at, 4, in_pitch * 4, grad_at + c * 4, grad_pitch * 4, pairs, sums + c, channels * 4);
    for (int64_t f = 0; f < depth; f += kPanel) {
      product<P, 2, false>(rows, grad, grad_pitch * sizeof(Element), 4, base + f * words * 4, kPanel * 4, words, out, kPanel * 4);
      for (int64_t r = 0; r < rows; ++r) {
        float* const to = this->features(a.grad_features, band, first + r) + f;
        store_first(to, load(out + r * kPanel), depth - f);
        if (depth - f > kLanes) store_first(to + kLanes, load(out + r * kPanel + kLanes), depth - f - kLanes);
      }
    }
  }
};

}  // namespace
}  // namespace ussfast
