// Gradients of conv_ffn.h, from the pre-activations that its forward pass kept.
//
// Rows lie as in the forward pass; gradients at seams are zero, so that products over all rows of a block (weights) and
// over windows of rows (input) need not know of sequences. Gradients of the weights are added up per chunk of blocks:
// chunks do not depend on the number of threads, and conv_ffn.cpp adds them in their order.
#pragma once

#include "conv_ffn.h"

namespace ussfast {
namespace {

template <class P>
struct ConvFfnBackward : ConvFfnBlock<P> {
  using Base = ConvFfnBlock<P>;
  using typename Base::Element;
  using Base::a, Base::length, Base::channels, Base::width, Base::units, Base::hidden, Base::seam, Base::pitch;
  using Base::per, Base::groups, Base::space;
  static constexpr bool kPairs = P::kGroup == 2;

  const ConvFfnSums at;

  // Buffers of a block. Those with pairs are empty in float32, whose products over rows read the rows in place.
  struct Buffers {
    Element *in, *grad, *h, *grad_units;        // grad_units: two zero rows come first
    uint32_t *even, *odd, *grad_pairs, *h_pairs, *unit_pairs;
    float *grad_in, *scales;
    const Element** kept;  // pre-activations of every row; null at seams
    int64_t bytes;
  };

  explicit ConvFfnBackward(const ConvFfnArgs& args) : Base(args), at(channels, units, kPanel) {}

  int64_t blocks() const { return a.chunks; }
  int64_t scratch() const { return buffers(nullptr).bytes; }

  void run(int64_t chunk, char* scratch) const {
    float* sums = a.sums + chunk * at.size;
    std::memset(sums, 0, at.size * sizeof(float));
    const Buffers b = buffers(scratch);
    for (int64_t i = groups * chunk / a.chunks; i < groups * (chunk + 1) / a.chunks; ++i) run_block(i, b, sums);
  }

 private:
  Buffers buffers(char* base) const {
    int64_t used = 0;
    const auto take = [&](int64_t bytes) {
      char* const at = base + used;
      used += round_up(bytes, 64);
      return at;
    };
    const auto pairs = [&](int64_t columns) { return (uint32_t*)take(kPairs ? space / 2 * columns * 4 + 256 : 0); };
    Buffers b;
    b.in = (Element*)take(this->input_bytes());
    b.grad = (Element*)take(this->input_bytes());
    b.h = (Element*)take(this->hidden_bytes());
    b.grad_units = (Element*)take((space + 2) * units * sizeof(Element));
    b.even = pairs(channels), b.odd = pairs(channels), b.grad_pairs = pairs(channels);
    b.h_pairs = pairs(hidden), b.unit_pairs = pairs(units);
    b.grad_in = (float*)take(this->out_bytes());
    b.scales = (float*)take(space * sizeof(float));
    b.kept = (const Element**)take(space * sizeof(void*));
    b.bytes = used;
    return b;
  }

  void run_block(int64_t block, const Buffers& b, float* sums) const {
    const int64_t first = block * per, sequences = std::min(per, a.at.count() - first), rows = sequences * pitch;
    this->read(first, sequences, b.in, b.scales);
    read_grad(first, sequences, b, sums);
    for (int64_t n = 0; n < space; ++n) {
      const int64_t s = n / pitch, l = n % pitch;
      b.kept[n] = n < rows && l < length ? (const Element*)a.saved + ((first + s) * length + l) * units : nullptr;
    }
    units_backward(rows, b, sums);
    if (!a.frozen) weights_backward(rows, b, sums);
    // A row's gradient is the window of rows that begins two rows before it, times the taps from the last to the first.
    const int64_t words = 3 * units / P::kGroup;
    for (int64_t c = 0; c < width; c += kPanel)
      product<P, 2, false>(rows, b.grad_units, units * sizeof(Element), 4, a.inner_back + c * words * 4, kPanel * 4,
                           words, b.grad_in + c, width * 4);
    norm_backward(first, sequences, b, sums);
  }

  // Gradients of the result; zeros at the seams.
  void read_grad(int64_t first, int64_t sequences, const Buffers& b, float* sums) const {
    Element* to = b.grad;
    float* bias = sums + at.outer_bias;
    for (int64_t s = 0; s < sequences; ++s) {
      const float* from = a.grad + a.at.out(first + s);
      for (int64_t l = 0; l < length; ++l, from += a.at.out_step, to += channels) {
        if (l + 8 < length)
          for (int64_t c = 0; c < channels; c += 16) __builtin_prefetch(from + 8 * a.at.out_step + c);
        for (int64_t c = 0; c < channels; c += kLanes) {
          const F value = load_some(from + c, channels - c);
          put_some(to + c, value, channels - c);
          store(bias + c, load(bias + c) + value);
        }
      }
      std::memset(to, 0, seam * channels * sizeof(Element));
      to += seam * channels;
    }
    std::memset((char*)to, 0, this->input_bytes() - sequences * pitch * channels * sizeof(Element));
  }

  // Gradients of the pre-activations, and the hidden activations again.
  void units_backward(int64_t rows, const Buffers& b, float* sums) const {
    const int64_t row = channels * sizeof(Element), words = (channels + P::kGroup - 1) / P::kGroup;
    Element* const grads = b.grad_units + 2 * units;
    std::memset(b.grad_units, 0, 2 * units * sizeof(Element));
    std::memset(grads + rows * units, 0, (space - rows) * units * sizeof(Element));
    std::memset(b.h + rows * hidden, 0, (space - rows) * hidden * sizeof(Element));
    F acc[3 * kStep][2];
    for (int64_t h = 0; h < hidden; h += kPanel) {
      F biases[4];
      float* const bias = sums + at.inner_bias + 2 * h;
      for (int v = 0; v < 4; ++v) biases[v] = load(bias + v * kLanes);
      for_each_tile(rows, [&](auto size, int64_t m) __attribute__((always_inline)) {
        tile<P, size, 2, false>((const char*)b.grad + m * row, row, 4, a.outer_back + h * words * 4, kPanel * 4, words,
                                (char*)acc, sizeof(acc[0]));
        for (int r = 0; r < size; ++r) {
          const Element* kept = b.kept[m + r];
          Element* to = grads + (m + r) * units + 2 * h;
          if (kept == nullptr) {
            std::memset(to, 0, 2 * kPanel * sizeof(Element));
            std::memset(b.h + (m + r) * hidden + h, 0, kPanel * sizeof(Element));
            continue;
          }
          if (const Element* ahead = b.kept[std::min(m + r + 16, space - 1)]) {
            __builtin_prefetch(ahead + 2 * h);
            __builtin_prefetch(ahead + 2 * h + 32);
          }
#pragma GCC unroll 2
          for (int v = 0; v < 2; ++v) {
            const int64_t u = v * kPanel;
            const F value = get(kept + 2 * h + u), gate = get(kept + 2 * h + u + kLanes), grad = acc[r][v];
            const F open = sigmoid(gate), lit = gate * open;
            const F of_value = grad * lit, of_gate = grad * value * (open + lit * (1.0f - open));
            put(b.h + (m + r) * hidden + h + v * kLanes, value * lit);
            put(to + u, of_value);
            put(to + u + kLanes, of_gate);
            biases[2 * v] += of_value;
            biases[2 * v + 1] += of_gate;
          }
        }
      });
      for (int v = 0; v < 4; ++v) store(bias + v * kLanes, biases[v]);
    }
  }

  // Products over the rows of the block.
  void weights_backward(int64_t rows, const Buffers& b, float* sums) const {
    const char *taps[3], *units_at, *grad_at, *h_at;
    if constexpr (kPairs) {
      const int64_t pairs = (rows + 1) / 2;
      pair_rows(b.in, pairs + 1, channels, b.even);
      pair_rows(b.in + channels, pairs, channels, b.odd);
      pair_rows(b.grad, pairs, channels, b.grad_pairs);
      pair_rows(b.h, pairs, hidden, b.h_pairs);
      pair_rows(b.grad_units + 2 * units, pairs, units, b.unit_pairs);
      taps[0] = (const char*)b.even, taps[1] = (const char*)b.odd, taps[2] = (const char*)(b.even + channels);
      units_at = (const char*)b.unit_pairs, grad_at = (const char*)b.grad_pairs, h_at = (const char*)b.h_pairs;
    } else {
      for (int64_t j = 0; j < 3; ++j) taps[j] = (const char*)(b.in + j * channels);
      units_at = (const char*)(b.grad_units + 2 * units), grad_at = (const char*)b.grad, h_at = (const char*)b.h;
    }
    const int64_t depth = (rows + P::kGroup - 1) / P::kGroup;
    for (int64_t j = 0; j < 3; ++j)
      for (int64_t c = 0; c < width; c += kPanel)
        product<P, 2, true>(units, units_at, 4, units * 4, taps[j] + c * 4, channels * 4, depth,
                            sums + j * width + c, 3 * width * 4);
    for (int64_t h = 0; h < hidden; h += kPanel)
      product<P, 2, true>(channels, grad_at, 4, channels * 4, h_at + h * 4, hidden * 4, depth, sums + at.outer + h,
                          hidden * 4);
  }

  // Through the norm and beside it.
  void norm_backward(int64_t first, int64_t sequences, const Buffers& b, float* sums) const {
    float* const weight = sums + at.norm;
    for (int64_t s = 0; s < sequences; ++s) {
      const int64_t sequence = first + s, outer = sequence / a.at.inner, inner = sequence % a.at.inner;
      for (int64_t i = 0; i < pitch; ++i) {
        const float* x = this->source(sequence, i);
        if (x == nullptr) continue;
        float* from = b.grad_in + (s * pitch + i) * width;
        const float scale = b.scales[s * pitch + i];
        const float back = norm_dot(x, from, a.norm, channels, scale, weight);
        const bool past = i < seam;
        const int64_t place = a.at.out(sequence) + (i - seam) * a.at.out_step;
        float* to = past ? a.grad_past : a.grad_x + place;
        if (to == nullptr) continue;
        if (past) to += outer * a.grad_past_outer + inner * a.at.out_inner + i * a.at.out_step;
        for (int64_t c = 0; c < channels; c += kLanes) {
          const int64_t n = channels - c;
          F value = load(from + c) * load_some(a.norm + c, n) * scale - load_some(x + c, n) * back;
          if (!past) value += load_some(a.grad + place + c, n);
          store_some(to + c, value, n);
        }
      }
    }
  }
};

}  // namespace
}  // namespace ussfast
