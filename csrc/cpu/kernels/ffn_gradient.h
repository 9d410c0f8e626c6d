// The gradient of ffn.h with respect to its input, from nothing but the input.
//
// Blocks are those of the forward pass, cut smaller, as there is twice as much per hidden row. The gradient of a hidden
// row sees the same window of the result's gradient as the row itself sees of the normalised input, so both lie alike in
// memory. Values and gates are computed again; their gradients go through the transposed convolution into shifted rows,
// as hidden activations do in the forward pass, and from there through the norm. Weights are packed, see
// locoformer_ffn.cpp.
#pragma once

#include "ffn.h"
#include "norm_gradient.h"

namespace ussfast {
namespace {

template <class P>
struct FfnGradient : FfnBlock<P, std::is_same_v<P, Float32> ? 128 : 192> {
  using Base = FfnBlock<P, std::is_same_v<P, Float32> ? 128 : 192>;
  using typename Base::Element, typename Base::Part;
  using Base::a, Base::channels, Base::out_width, Base::in_words;

  const int64_t units;  // values and gates, with padding

  explicit FfnGradient(const FfnArgs& args) : Base(args), units(2 * round_up(args.hidden, kPanel)) {}

  int64_t units_bytes() const { return round_up(this->most_hidden() * units * sizeof(Element), 64); }
  int64_t scratch() const { return 2 * this->in_bytes() + units_bytes() + this->out_bytes() + this->row_bytes(); }

  void run(int64_t block, char* scratch) const {
    char* in = scratch;
    char* grad = in + this->in_bytes();
    Element* to = (Element*)(grad + this->in_bytes());
    float* out = (float*)((char*)to + units_bytes());
    float* row = (float*)((char*)out + this->out_bytes());
    const Part p = this->part(block);
    this->read_normal(p, in, row);
    this->read(p, grad, [&](int64_t sequence, int64_t l, Element* at) {
      const float* from = a.grad + a.at.out(sequence) + l * a.at.out_step;
      if (l + Base::kAhead < a.at.length)
        for (int64_t c = 0; c < channels; c += 16) __builtin_prefetch(from + Base::kAhead * a.at.out_step + c);
      for (int64_t c = 0; c < channels; c += kLanes) put_some(at + c, load_some(from + c, channels - c), channels - c);
    });
    through_units(in, grad, p.rows, to);
    through_convolution(to, p.rows, out);
    for (int64_t s = 0; s < p.sequences; ++s)
      for (int64_t l = p.from; l < p.to; ++l) {
        const float* x = a.x + a.at.in(p.first + s) + l * a.at.in_step;
        const int64_t at = a.at.out(p.first + s) + l * a.at.out_step;
        normalize_row_gradient(x, a.norm.weight, out + this->place(p, s, l) * out_width, a.grad + at, a.grad_x + at,
                               a.norm.groups, channels / a.norm.groups, a.norm.eps);
      }
  }

 private:
  // Gradients of values and gates of all rows, in the order of the packed convolution.
  void through_units(const char* in, const char* grad, int64_t rows, Element* units_at) const {
    const int64_t in_row = a.stride * channels * sizeof(Element), panel = in_words * kPanel * 4;
    F ahead[2][3 * kStep][2], back[3 * kStep][2];
    for (int64_t h = 0; h < units / 2; h += kPanel) {
      F biases[4];
      for (int v = 0; v < 4; ++v) biases[v] = load(a.conv_bias + 2 * h + v * kLanes);
      const char* const forward = a.conv + h / kLanes * panel;
      for_each_tile(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
        for (int v = 0; v < 2; ++v)
          tile<P, size, 2, false>(in + m * in_row, in_row, 4, forward + v * panel, kPanel * 4, in_words, (char*)ahead[v],
                                  sizeof(ahead[v][0]));
        tile<P, size, 2, false>(grad + m * in_row, in_row, 4, a.deconv_back + h / kPanel * panel, kPanel * 4, in_words,
                                (char*)back, sizeof(back[0]));
        Element* to = units_at + m * units + 2 * h;
        for (int r = 0; r < size; ++r, to += units) {
#pragma GCC unroll 2
          for (int v = 0; v < 2; ++v) {
            const F value = ahead[v][r][0] + biases[2 * v], gate = ahead[v][r][1] + biases[2 * v + 1];
            const F open = sigmoid(gate), lit = gate * open;
            put(to + v * kPanel, back[r][v] * lit);
            put(to + v * kPanel + kLanes, back[r][v] * value * (open + lit * (1.0f - open)));
          }
        }
      });
    }
  }

  // Every tap's product is added to its shifted rows, see Ffn::contract.
  void through_convolution(const Element* from, int64_t rows, float* out) const {
    const int64_t words = units / P::kGroup, panel = words * kPanel * 4;
    std::memset(out, 0, ((rows - 1) * a.stride + a.kernel) * out_width * sizeof(float));
    const char* weights = a.conv_back;
    for (int64_t tap = 0; tap < a.kernel; ++tap)
      for (int64_t c = 0; c < out_width; c += kPanel, weights += panel)
        product<P, 2, true>(rows, from, units * sizeof(Element), 4, weights, kPanel * 4, words,
                            out + tap * out_width + c, a.stride * out_width * 4);
  }
};

}  // namespace
}  // namespace ussfast
