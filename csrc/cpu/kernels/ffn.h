// RMSNorm -> convolution -> SwiGLU -> transposed convolution -> residual, along sequences of any stride.
//
// Work is done on blocks of rows small enough for the cache. In a block the normalised input lies with kernel - stride
// zero rows before every sequence, so that neighbouring sequences form one long one: row n of A is the window of
// hidden row n, read in place. The transposed convolution adds every tap's product into shifted output rows; what
// falls between sequences lands on rows that nobody reads.
#pragma once

#include <type_traits>

#include "gemm.h"
#include "norm.h"
#include "table.h"

namespace ussfast {
namespace {

template <class P>
struct Ffn {
  using Element = typename P::Element;
  static constexpr bool kInt8 = std::is_same_v<P, Int8>;
  static constexpr int kRows = 192;  // hidden rows per block

  const FfnArgs& a;
  const int64_t steps, channels, out_width, hidden_width, in_words, hidden_words, edge, crop;
  const bool whole;        // a block is `per` whole sequences; otherwise a part of one
  const int64_t per, parts;  // sequences per block; blocks per sequence

  explicit Ffn(const FfnArgs& args)
      : a(args),
        steps(a.steps()),
        channels(a.at.channels),
        out_width(round_up(channels, kPanel)),
        hidden_width(round_up(a.hidden, kLanes)),
        in_words((a.kernel * channels + P::kGroup - 1) / P::kGroup),
        hidden_words(hidden_width / P::kGroup),
        edge(a.kernel - a.stride),
        crop(a.causal ? 0 : edge),
        whole(steps <= kRows),
        per(whole ? kRows / steps : 1),
        parts(whole ? 1 : (steps + kRows - 1) / kRows) {}

  int64_t blocks() const { return whole ? (a.at.count() + per - 1) / per : a.at.count() * parts; }

  // Upper bounds of what a block needs, with room for tiles that reach over the end.
  int64_t most_hidden() const {
    const int64_t rows = whole ? per * steps : (a.at.length / parts + 1 + a.kernel) / a.stride + 2;
    return rows + 3 * kStep;
  }
  int64_t in_bytes() const {
    return round_up((most_hidden() * a.stride + a.kernel) * channels * sizeof(Element) + 64, 64);
  }
  int64_t hidden_bytes() const { return round_up(most_hidden() * hidden_width * sizeof(float), 64); }
  int64_t out_bytes() const { return round_up((most_hidden() * a.stride + a.kernel) * out_width * sizeof(float), 64); }
  int64_t quantized_bytes() const { return kInt8 ? round_up(most_hidden() * (hidden_width + 4 + 4 * kLanes), 64) : 0; }
  int64_t row_bytes() const { return round_up(channels * sizeof(float), 64); }
  int64_t scratch() const { return in_bytes() + hidden_bytes() + out_bytes() + quantized_bytes() + row_bytes(); }

  void run(int64_t block, char* scratch) const {
    char* in = scratch;
    char* hidden = in + in_bytes();
    float* out = (float*)(hidden + hidden_bytes());
    char* quantized = (char*)out + out_bytes();
    float* row = (float*)(quantized + quantized_bytes());

    const int64_t first = whole ? block * per : block / parts;
    const int64_t sequences = whole ? std::min(per, a.at.count() - first) : 1;
    const int64_t part = whole ? 0 : block % parts;
    const int64_t from = a.at.length * part / parts, to = a.at.length * (part + 1) / parts;  // output positions
    // Hidden rows that reach them.
    const int64_t low = std::max<int64_t>(0, (from + crop - a.kernel + a.stride) / a.stride);
    const int64_t high = whole ? steps : std::min(steps, (to - 1 + crop) / a.stride + 1);
    const int64_t rows = (sequences - 1) * steps + high - low;

    for (int64_t s = 0; s < sequences; ++s) {
      const int64_t end = s + 1 < sequences ? steps * a.stride : (high - 1 - low) * a.stride + a.kernel;
      read(first + s, low * a.stride - edge, end, in + s * steps * a.stride * channels * sizeof(Element), row);
    }
    expand(in, rows, hidden, (float*)quantized);
    if (a.causal)  // the tail of a sequence must not reach the start of the next
      for (int64_t s = 0; s < sequences; ++s)
        for (int64_t n = std::max(a.at.length, low); n < high; ++n) {
          const int64_t size = hidden_width * (kInt8 ? sizeof(float) : sizeof(Element));
          std::memset(hidden + (s * steps + n - low) * size, 0, size);
          if (kInt8) std::memset(quantized + (s * steps + n - low) * sizeof(F), 0, sizeof(F));
        }

    // Output row of position l of sequence s.
    const auto place = [&](int64_t s, int64_t l) { return (s * steps - low) * a.stride + l + crop; };
    std::memset(out, 0, ((rows - 1) * a.stride + a.kernel) * out_width * sizeof(float));
    for (int64_t s = 0; s < sequences; ++s)
      for (int64_t l = from; l < to; ++l) {
        const float* x = a.x + a.at.in(first + s) + l * a.at.in_step;
        float* y = out + place(s, l) * out_width;
        for (int64_t c = 0; c < channels; c += kLanes)
          store_some(y + c, load_some(x + c, channels - c) + load(a.deconv_bias + c), channels - c);
      }
    contract(hidden, quantized, rows, out);
    for (int64_t s = 0; s < sequences; ++s)
      for (int64_t l = from; l < to; ++l)
        std::memcpy(a.y + a.at.out(first + s) + l * a.at.out_step, out + place(s, l) * out_width, channels * sizeof(float));
  }

 private:
  // Normalised rows of positions start .. start + rows of a sequence; zeros outside of it.
  void read(int64_t sequence, int64_t start, int64_t rows, char* to, float* row) const {
    const float* x = a.x + a.at.in(sequence);
    const int64_t width = channels / a.norm.groups;
    for (int64_t r = 0; r < rows; ++r, to += channels * sizeof(Element)) {
      const int64_t l = start + r;
      if (l < 0 || l >= a.at.length) {
        std::memset(to, kInt8 ? 128 : 0, channels * sizeof(Element));
        continue;
      }
      const bool direct = std::is_same_v<P, Float32>;
      float* y = direct ? (float*)to : row;
      normalize_row(x + l * a.at.in_step, a.norm.weight, y, a.norm.groups, width, a.norm.eps);
      // A normalised value is at most the root of its group's width: the scale needs no search.
      if (!direct) narrow(row, channels, kInt8 ? 127.0f / std::sqrt(float(width)) : 1.0f, (Element*)to);
    }
  }

  static USSFAST_INLINE void narrow(const float* from, int64_t n, float scale, Element* to) {
    for (int64_t c = 0; c < n; c += kLanes) {
      const F value = load_some(from + c, n - c);
      if constexpr (kInt8) {
        const B bytes = __builtin_convertvector((U)(value * scale + (kRounder + 128)) & 255u, B);
        std::memcpy(to + c, &bytes, std::min<int64_t>(n - c, kLanes));
      } else if constexpr (std::is_same_v<P, Bfloat16>) {
        const H halves = to_bfloat16(value);
        std::memcpy(to + c, &halves, 2 * std::min<int64_t>(n - c, kLanes));
      }
    }
  }

  // Convolution and SwiGLU of all rows; in int8 the products leave as float and are then narrowed row by row.
  void expand(const char* in, int64_t rows, char* hidden, float* peaks) const {
    const int64_t in_row = a.stride * channels * sizeof(Element), panel = in_words * kPanel * 4;
    const int64_t out_size = kInt8 ? sizeof(float) : sizeof(Element);
    for (int64_t h = 0; h < hidden_width; h += kLanes) {
      const char* weights = a.conv + h / kLanes * panel;
      const F value_bias = load(a.conv_bias + 2 * h), gate_bias = load(a.conv_bias + 2 * h + kLanes);
      for_each_tile(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
        constexpr int MR = size;
        typename P::Acc acc[MR][2] = {};
        if constexpr (kInt8)
          for (int r = 0; r < MR; ++r)
            for (int v = 0; v < 2; ++v) acc[r][v] = load<I>(a.conv_zero + 2 * h + v * kLanes);
        accumulate<P, MR, 2>(acc, in + m * in_row, in_row, 4, weights, kPanel * 4, in_words);
        char* to = hidden + (m * hidden_width + h) * out_size;
#pragma GCC unroll 12
        for (int r = 0; r < MR; ++r, to += hidden_width * out_size) {
          if constexpr (kInt8) {
            const F value_scale = load(a.conv_scale + 2 * h), gate_scale = load(a.conv_scale + 2 * h + kLanes);
            const F value = __builtin_convertvector(acc[r][0], F) * value_scale + value_bias;
            const F y = value * silu(__builtin_convertvector(acc[r][1], F) * gate_scale + gate_bias);
            float* peak = peaks + (m + r) * kLanes;
            store(peak, h ? max(load(peak), max(y, -y)) : max(y, -y));
            store(to, y);
          } else {
            const F y = (acc[r][0] + value_bias) * silu(acc[r][1] + gate_bias);
            if constexpr (std::is_same_v<P, Float32>) store(to, y);
            else store(to, to_bfloat16(y));
          }
        }
      });
    }
  }

  // Transposed convolution: every tap's product is added to its shifted rows of out.
  void contract(char* hidden, char* quantized, int64_t rows, float* out) const {
    [[maybe_unused]] const float* peaks = (const float*)quantized;
    [[maybe_unused]] float* scales = (float*)(quantized + most_hidden() * sizeof(F));
    if constexpr (kInt8) {
      uint8_t* bytes = (uint8_t*)(scales + most_hidden());
      for (int64_t m = 0; m < rows; ++m) {
        const float peak = largest(load(peaks + m * kLanes));
        scales[m] = peak / 127.0f;
        narrow((const float*)hidden + m * hidden_width, hidden_width, peak > 0 ? 127.0f / peak : 0.0f,
               bytes + m * hidden_width);
      }
      hidden = (char*)bytes;
    }
    const int64_t hidden_row = hidden_width * sizeof(Element), panel = hidden_words * kPanel * 4;
    const char* weights = a.deconv;
    for (int64_t tap = 0; tap < a.kernel; ++tap)
      for (int64_t c = 0; c < out_width; c += kPanel, weights += panel)
        for_each_tile(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
          constexpr int MR = size;
          typename P::Acc acc[MR][2] = {};
          if constexpr (kInt8)
            for (int r = 0; r < MR; ++r)
              for (int v = 0; v < 2; ++v) acc[r][v] = load<I>(a.deconv_zero + tap * out_width + c + v * kLanes);
          accumulate<P, MR, 2>(acc, hidden + m * hidden_row, hidden_row, 4, weights, kPanel * 4, hidden_words);
          float* to = out + (m * a.stride + tap) * out_width + c;
#pragma GCC unroll 12
          for (int r = 0; r < MR; ++r, to += a.stride * out_width) {
            if (m + r >= rows) break;
            for (int v = 0; v < 2; ++v) {
              float* at = to + v * kLanes;
              if constexpr (kInt8) {
                const F scale = load(a.deconv_scale + tap * out_width + c + v * kLanes) * scales[m + r];
                store(at, load(at) + __builtin_convertvector(acc[r][v], F) * scale);
              } else {
                store(at, load(at) + acc[r][v]);
              }
            }
          }
        });
  }

  static USSFAST_INLINE H to_bfloat16(F value) {
    const U bits = (U)value;
    return __builtin_convertvector((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, H);  // ties to even
  }
};

template <class P>
int64_t ffn_blocks(const FfnArgs& args) {
  return Ffn<P>(args).blocks();
}
template <class P>
int64_t ffn_scratch(const FfnArgs& args) {
  return Ffn<P>(args).scratch();
}
template <class P>
void ffn_run(const FfnArgs& args, int64_t first, int64_t last, char* scratch) {
  const Ffn<P> ffn(args);
  for (int64_t block = first; block < last; ++block) ffn.run(block, scratch);
}

}  // namespace
}  // namespace ussfast
