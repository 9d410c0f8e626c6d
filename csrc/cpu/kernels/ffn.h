// RMSNorm -> convolution -> SwiGLU -> transposed convolution -> residual, along sequences of any stride.
//
// Work is done on blocks of rows small enough for the cache. In a block the normalised input lies with kernel - stride
// zero rows before every sequence, so that neighbouring sequences form one long one: row n of A is the window of
// hidden row n, read in place. The transposed convolution adds every tap's product into shifted output rows; what
// falls between sequences lands on rows that nobody reads.
#pragma once

#include <type_traits>

#include "rows.h"
#include "table.h"

namespace ussfast {
namespace {

// What both directions share: how sequences are cut into blocks of at most ROWS hidden rows, and their normalised rows.
template <class P, int ROWS>
struct FfnBlock {
  using Element = typename P::Element;
  static constexpr bool kInt8 = std::is_same_v<P, Int8>;
  static constexpr int kAhead = 8;  // rows fetched before they are needed

  const FfnArgs& a;
  const int64_t steps, channels, out_width, in_words, edge;
  const bool whole;        // a block is `per` whole sequences; otherwise a part of one
  const int64_t per, parts;  // sequences per block; blocks per sequence

  explicit FfnBlock(const FfnArgs& args)
      : a(args),
        steps(a.steps()),
        channels(a.at.channels),
        out_width(round_up(channels, kPanel)),
        in_words((a.kernel * channels + P::kGroup - 1) / P::kGroup),
        edge(a.kernel - a.stride),
        whole(steps <= ROWS),
        per(whole ? ROWS / steps : 1),
        parts(whole ? 1 : (steps + ROWS - 1) / ROWS) {}

  int64_t blocks() const { return whole ? (a.at.count() + per - 1) / per : a.at.count() * parts; }

  // Upper bounds of what a block needs, with room for tiles that reach over the end.
  int64_t most_hidden() const {
    const int64_t rows = whole ? per * steps : (a.at.length / parts + 1 + a.kernel) / a.stride + 2;
    return rows + 3 * kStep;
  }
  int64_t in_bytes() const {
    return round_up((most_hidden() * a.stride + a.kernel) * channels * sizeof(Element) + 64, 64);
  }
  int64_t out_bytes() const { return round_up((most_hidden() * a.stride + a.kernel) * out_width * sizeof(float), 64); }
  int64_t row_bytes() const { return round_up(channels * sizeof(float), 64); }

  struct Part {
    int64_t first, sequences;
    int64_t from, to;         // output positions of each
    int64_t low, high, rows;  // hidden rows that reach them, of one; of all
  };
  Part part(int64_t block) const {
    Part p;
    p.first = whole ? block * per : block / parts;
    p.sequences = whole ? std::min(per, a.at.count() - p.first) : 1;
    const int64_t i = whole ? 0 : block % parts;
    p.from = a.at.length * i / parts, p.to = a.at.length * (i + 1) / parts;
    p.low = p.from / a.stride;
    p.high = whole ? steps : std::min(steps, (p.to - 1 + edge) / a.stride + 1);
    p.rows = (p.sequences - 1) * steps + p.high - p.low;
    return p;
  }
  // Output row of position l of sequence s.
  USSFAST_INLINE int64_t place(const Part& p, int64_t s, int64_t l) const {
    return (s * steps - p.low) * a.stride + l + edge;
  }

  // The rows that windows of a block see, from row(sequence, position, to); zeros where there is none.
  template <class Row>
  USSFAST_INLINE void read(const Part& p, char* to, const Row& row) const {
    constexpr int kZero = kInt8 ? 128 : 0;
    for (int64_t s = 0; s < p.sequences; ++s) {
      const int64_t end = s + 1 < p.sequences ? steps * a.stride : (p.high - 1 - p.low) * a.stride + a.kernel;
      for (int64_t r = 0; r < end; ++r, to += channels * sizeof(Element)) {
        const int64_t l = p.low * a.stride - edge + r;
        if (l < 0 || l >= a.at.length) std::memset(to, kZero, channels * sizeof(Element));
        else row(p.first + s, l, (Element*)to);
      }
    }
    std::memset(to, kZero, 64);  // the last window's last word may be longer than the window
  }

  // The same with normalised rows. some: room for one.
  void read_normal(const Part& p, char* in, float* some) const {
    const int64_t width = channels / a.norm.groups;
    read(p, in, [&](int64_t sequence, int64_t l, Element* to) {
      const float* x = a.x + a.at.in(sequence);
      if (l + kAhead < a.at.length)  // along time, rows are pages apart: no hardware foresees that
        for (int64_t c = 0; c < channels; c += 16) __builtin_prefetch(x + (l + kAhead) * a.at.in_step + c);
      const bool direct = std::is_same_v<P, Float32>;
      normalize_row(x + l * a.at.in_step, a.norm.weight, direct ? (float*)to : some, a.norm.groups, width, a.norm.eps);
      // A normalised value is at most the root of its group's width: the scale needs no search.
      if (!direct) narrow(some, channels, kInt8 ? 127.0f / std::sqrt(float(width)) : 1.0f, to);
    });
  }

  static USSFAST_INLINE void narrow(const float* from, int64_t n, float scale, Element* to) {
    if constexpr (kInt8) quantize(from, n, scale, to);
    else if constexpr (std::is_same_v<P, Bfloat16>)
      for (int64_t c = 0; c < n; c += kLanes) put_some(to + c, load_some(from + c, n - c), n - c);
  }
};

template <class P>
struct Ffn : FfnBlock<P, std::is_same_v<P, Int8> ? 96 : 192> {
  using Base = FfnBlock<P, std::is_same_v<P, Int8> ? 96 : 192>;
  using typename Base::Element, typename Base::Part;
  using Base::a, Base::kInt8, Base::channels, Base::out_width, Base::in_words;

  const int64_t hidden_width, hidden_words;

  explicit Ffn(const FfnArgs& args)
      : Base(args), hidden_width(round_up(a.hidden, kLanes)), hidden_words(hidden_width / P::kGroup) {}

  int64_t hidden_bytes() const { return round_up(this->most_hidden() * hidden_width * sizeof(Element), 64); }
  int64_t scale_bytes() const { return kInt8 ? round_up(this->most_hidden() * sizeof(float), 64) : 0; }
  int64_t few_bytes() const { return kInt8 ? 3 * kStep * hidden_width * sizeof(float) : 0; }
  int64_t scratch() const {
    return this->in_bytes() + hidden_bytes() + this->out_bytes() + scale_bytes() + few_bytes() + this->row_bytes();
  }

  void run(int64_t block, char* scratch) const {
    char* in = scratch;
    char* hidden = in + this->in_bytes();
    float* out = (float*)(hidden + hidden_bytes());
    float* scales = (float*)((char*)out + this->out_bytes());
    float* few = (float*)((char*)scales + scale_bytes());
    float* row = (float*)((char*)few + few_bytes());
    const Part p = this->part(block);
    const int64_t rows = p.rows;

    this->read_normal(p, in, row);
    if constexpr (kInt8) expand_int8(in, rows, (uint8_t*)hidden, scales, few);
    else expand(in, rows, hidden);

    std::memset(out, 0, ((rows - 1) * a.stride + a.kernel) * out_width * sizeof(float));
    for (int64_t s = 0; s < p.sequences; ++s)
      for (int64_t l = p.from; l < p.to; ++l) {
        const float* x = a.x + a.at.in(p.first + s) + l * a.at.in_step;
        float* y = out + this->place(p, s, l) * out_width;
        for (int64_t c = 0; c < channels; c += kLanes)
          store_some(y + c, load_some(x + c, channels - c) + load(a.deconv_bias + c), channels - c);
      }
    contract(hidden, scales, rows, out);
    for (int64_t s = 0; s < p.sequences; ++s)
      for (int64_t l = p.from; l < p.to; ++l)
        copy(out + this->place(p, s, l) * out_width, channels, a.y + a.at.out(p.first + s) + l * a.at.out_step);
  }

  // Convolution and SwiGLU of all rows.
  void expand(const char* in, int64_t rows, char* hidden) const {
    const int64_t in_row = a.stride * channels * sizeof(Element), panel = in_words * kPanel * 4;
    F acc[3 * kStep][2];
    for (int64_t h = 0; h < hidden_width; h += kLanes) {
      const F value_bias = load(a.conv_bias + 2 * h), gate_bias = load(a.conv_bias + 2 * h + kLanes);
      for_each_tile(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
        tile<P, size, 2, false>(in + m * in_row, in_row, 4, a.conv + h / kLanes * panel, kPanel * 4, in_words,
                                (char*)acc, sizeof(acc[0]));
        Element* to = (Element*)hidden + m * hidden_width + h;
        for (int r = 0; r < size; ++r, to += hidden_width) {
          const F value = acc[r][0] + value_bias, gate = acc[r][1] + gate_bias;
          if constexpr (std::is_same_v<P, Float32>) store(to, value * silu(gate));
          else put(to, value * silu_coarse(gate));
        }
      });
    }
  }

 private:
  static USSFAST_INLINE void copy(const float* from, int64_t n, float* to) {
    for (int64_t c = 0; c < n; c += kLanes) store_some(to + c, load(from + c), n - c);
  }

  // `expand` in int8, a few rows at a time: they become bytes as soon as all their hidden units are there.
  void expand_int8(const char* in, int64_t rows, uint8_t* hidden, float* scales, float* few) const {
    const int64_t in_row = a.stride * channels, panel = in_words * kPanel * 4;
    I acc[3 * kStep][2];
    for_each_tile(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
      for (int64_t h = 0; h < hidden_width; h += kLanes) {
        tile<P, size, 2, false>(in + m * in_row, in_row, 4, a.conv + h / kLanes * panel, kPanel * 4, in_words,
                                (char*)acc, sizeof(acc[0]));
        const F value_bias = load(a.conv_bias + 2 * h), gate_bias = load(a.conv_bias + 2 * h + kLanes);
        const F value_scale = load(a.conv_scale + 2 * h), gate_scale = load(a.conv_scale + 2 * h + kLanes);
        for (int r = 0; r < size; ++r) {
          const F value = __builtin_convertvector(acc[r][0], F) * value_scale + value_bias;
          const F gate = __builtin_convertvector(acc[r][1], F) * gate_scale + gate_bias;
          store(few + r * hidden_width + h, value * silu_coarse(gate));
        }
      }
      for (int r = 0; r < size; ++r) {
        const float* row = few + r * hidden_width;
        F peaks = splat(0.0f);
        for (int64_t h = 0; h < hidden_width; h += kLanes) peaks = max(peaks, magnitude(load(row + h)));
        const float peak = largest(peaks);
        scales[m + r] = peak / 127.0f;
        this->narrow(row, hidden_width, peak > 0 ? 127.0f / peak : 0.0f, (Element*)hidden + (m + r) * hidden_width);
      }
    });
  }

  // Transposed convolution: every tap's product is added to its shifted rows of out. Rows that a last tile has too
  // many come out behind all rows that are read.
  void contract(const char* hidden, const float* scales, int64_t rows, float* out) const {
    const int64_t hidden_row = hidden_width * sizeof(Element), panel = hidden_words * kPanel * 4;
    const int64_t out_row = a.stride * out_width;
    const char* weights = a.deconv;
    [[maybe_unused]] typename P::Acc acc[3 * kStep][2];
    for (int64_t tap = 0; tap < a.kernel; ++tap)
      for (int64_t c = 0; c < out_width; c += kPanel, weights += panel) {
        float* to = out + tap * out_width + c;
        if constexpr (!kInt8) {
          product<P, 2, true>(rows, hidden, hidden_row, 4, weights, kPanel * 4, hidden_words, to, out_row * 4);
        } else {
          for_each_tile(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
            tile<P, size, 2, false>(hidden + m * hidden_row, hidden_row, 4, weights, kPanel * 4, hidden_words,
                                    (char*)acc, sizeof(acc[0]));
            const int64_t column = tap * out_width + c;
            for (int v = 0; v < 2; ++v) {
              const F scale = load(a.deconv_scale + column + v * kLanes);
              const I zero = load<I>(a.deconv_zero + column + v * kLanes);
              float* at = to + m * out_row + v * kLanes;
              for (int r = 0; r < size; ++r, at += out_row)
                store(at, load(at) + __builtin_convertvector(acc[r][v] + zero, F) * (scale * scales[m + r]));
            }
          });
        }
      }
  }
};

}  // namespace
}  // namespace ussfast
