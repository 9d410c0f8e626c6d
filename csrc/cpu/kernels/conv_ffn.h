// RMSNorm -> convolution over three neighbours -> SwiGLU -> matrix -> residual, along sequences of any stride.
//
// A block is a few whole sequences. Its normalised rows lie behind each other with `seam` rows before every sequence
// (two of the past, or one zero row), so that row n of the convolution's input is the window that begins at row n; what
// falls between sequences is computed and not used. Weights are packed, see conv_ffn.cpp.
#pragma once

#include <type_traits>

#include "rows.h"
#include "table.h"

namespace ussfast {
namespace {

// What both directions share: the geometry of a block, and its normalised rows.
template <class P>
struct ConvFfnBlock {
  using Element = typename P::Element;
  static constexpr int64_t kRows = 200;  // of a block, if a sequence is not longer
  static constexpr int64_t kSpace = 16;  // rows that tiles and windows may reach beyond the end

  const ConvFfnArgs& a;
  const int64_t length, channels, width, units, hidden;
  const int64_t seam, pitch;  // rows between sequences; from one sequence to the next
  const int64_t per, groups;  // sequences per block; blocks
  const int64_t space;        // rows of a block's buffers

  explicit ConvFfnBlock(const ConvFfnArgs& args)
      : a(args),
        length(a.at.length),
        channels(a.at.channels),
        width(round_up(channels, kPanel)),
        units(a.units),
        hidden(units / 2),
        seam(a.causal ? 2 : 1),
        pitch(length + seam),
        per(std::max<int64_t>(1, std::min(kRows / pitch, a.at.count()))),
        groups((a.at.count() + per - 1) / per),
        space(round_up(per * pitch, 2) + kSpace) {}

  int64_t input_bytes() const { return round_up((space * channels + 2 * kPanel) * sizeof(Element), 64); }
  int64_t hidden_bytes() const { return round_up(space * hidden * sizeof(Element), 64); }
  int64_t out_bytes() const { return space * width * sizeof(float); }

  // Row i of a sequence with its seam in front; null if there is nothing.
  USSFAST_INLINE const float* source(int64_t sequence, int64_t i) const {
    if (i >= seam) return a.x + a.at.in(sequence) + (i - seam) * a.at.in_step;
    if (a.past == nullptr) return nullptr;
    return a.past + sequence / a.at.inner * a.past_outer + sequence % a.at.inner * a.past_inner + i * a.past_step;
  }

  // Normalised rows of a block; their scales too, if there is a place for them.
  void read(int64_t first, int64_t sequences, Element* to, float* scales) const {
    for (int64_t s = 0; s < sequences; ++s)
      for (int64_t i = 0; i < pitch; ++i, to += channels) {
        const float* x = source(first + s, i);
        if (x == nullptr) {
          std::memset(to, 0, channels * sizeof(Element));
          continue;
        }
        // Along time, rows are pages apart: no hardware foresees that.
        if (i >= seam && i + 8 < pitch)
          for (int64_t c = 0; c < channels; c += 16) __builtin_prefetch(x + 8 * a.at.in_step + c);
        const float scale = scale_of_row(x, channels, a.eps);
        if (scales != nullptr) scales[s * pitch + i] = scale;
        for (int64_t c = 0; c < channels; c += kLanes) {
          const int64_t n = channels - c;
          put_some(to + c, load_some(x + c, n) * scale * load_some(a.norm + c, n), n);
        }
      }
    const int64_t rest = input_bytes() - sequences * pitch * channels * sizeof(Element);
    std::memset((char*)to, 0, rest);
  }
};

template <class P>
struct ConvFfn : ConvFfnBlock<P> {
  using Base = ConvFfnBlock<P>;
  using typename Base::Element;
  using Base::a, Base::length, Base::channels, Base::width, Base::units, Base::hidden, Base::seam, Base::pitch;
  using Base::per, Base::groups, Base::space;

  explicit ConvFfn(const ConvFfnArgs& args) : Base(args) {}

  int64_t blocks() const { return groups; }
  int64_t scratch() const { return this->input_bytes() + this->hidden_bytes() + this->out_bytes(); }

  void run(int64_t block, char* scratch) const {
    Element* in = (Element*)scratch;
    Element* h = (Element*)(scratch + this->input_bytes());
    float* out = (float*)((char*)h + this->hidden_bytes());
    const int64_t first = block * per, sequences = std::min(per, a.at.count() - first);
    const int64_t rows = sequences * pitch;
    this->read(first, sequences, in, nullptr);
    expand(first, rows, in, h);
    const int64_t words = hidden / P::kGroup;
    for (int64_t c = 0; c < width; c += kPanel)
      product<P, 2, false>(rows, h, hidden * sizeof(Element), 4, a.outer + c * words * 4, kPanel * 4, words, out + c,
                           width * 4);
    for (int64_t s = 0; s < sequences; ++s)
      for (int64_t l = 0; l < length; ++l) {
        const float* x = a.x + a.at.in(first + s) + l * a.at.in_step;
        const float* from = out + (s * pitch + l) * width;
        float* y = a.y + a.at.out(first + s) + l * a.at.out_step;
        for (int64_t c = 0; c < channels; c += kLanes) {
          const int64_t n = channels - c;
          store_some(y + c, load_some(x + c, n) + (load(from + c) + load(a.outer_bias + c)), n);
        }
      }
  }

  // Convolution and SwiGLU of all rows.
  void expand(int64_t first, int64_t rows, const Element* in, Element* h) const {
    const int64_t row = channels * sizeof(Element), words = (3 * channels + P::kGroup - 1) / P::kGroup;
    F acc[3 * kStep][2];
    for (int64_t u = 0; u < units; u += kPanel) {
      const F value_bias = load(a.inner_bias + u), gate_bias = load(a.inner_bias + u + kLanes);
      int64_t s = 0, l = 0;
      for_each_tile(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
        tile<P, size, 2, false>((const char*)in + m * row, row, 4, a.inner + u * words * 4, kPanel * 4, words,
                                (char*)acc, sizeof(acc[0]));
        Element* to = h + m * hidden + u / 2;
        for (int r = 0; r < size; ++r, to += hidden) {
          const F value = acc[r][0] + value_bias, gate = acc[r][1] + gate_bias;
          put(to, value * silu(gate));
          if (a.saved != nullptr && l < length && m + r < rows) {
            Element* keep = (Element*)a.saved + ((first + s) * length + l) * units + u;
            put(keep, value);
            put(keep + kLanes, gate);
          }
          if (++l == pitch) l = 0, ++s;
        }
      });
    }
  }
};

}  // namespace
}  // namespace ussfast
