// Self-attention among the bands of each frame: RMSNorm -> matrix -> softmax(q k^T / sqrt(width)) v -> matrix -> residual.
//
// A block is some frames of one item, whose products are done together; between them, each head of a frame is done on its
// own, in the first-level cache. Its scores lie transposed, a key's after another's: softmax then runs down the lanes,
// and all products but those with a transposed q or gradient read their factors in place. Heads are padded to panels.
#pragma once

#include "residual.h"

namespace ussfast {
namespace {

template <class P>
struct BandAttention : ResidualLayer<P> {
  using Base = ResidualLayer<P>;
  using typename Base::Buffers, typename Base::Element;
  using Base::units, Base::mixed, Base::kSpace;
  static constexpr int64_t kRows = 192;  // of a block, if a frame has not more

  const BandAttentionArgs& t;
  const int64_t bands, padded, row;  // padded: width of a head; row: of scores
  const int64_t per, groups;         // frames per block; blocks per item
  const float scale;

  // Memory of one frame.
  struct Frame {
    float *turned, *weights, *mix;  // [padded][row], [keys][row], [bands][mixed]
    float *turned_grad, *grads, *grad_units;
    int64_t bytes;
  };

  explicit BandAttention(const BandAttentionArgs& args)
      : Base(args),
        t(args),
        bands(args.bands),
        padded(args.mixed / args.heads),
        row(round_up(args.bands, kPanel)),
        per(std::max<int64_t>(1, std::min(kRows / args.bands, args.frames))),
        groups((args.frames + per - 1) / per),
        scale(1.0f / std::sqrt(float(args.head_width))) {}

  int64_t blocks() const { return t.batch * groups; }
  int64_t scratch() const { return this->bytes(per * bands, false) + frame(nullptr, false).bytes; }

  void run(int64_t block, char* memory) const {
    const Buffers b = this->buffers(memory, per * bands, false);
    const Frame f = frame(b.rest, false);
    const Patch p = patch(block);
    this->before(p, b);
    for (int64_t first = 0; first < p.rows(); first += bands) {
      for (int64_t h = 0; h < t.heads; ++h) mix_head(b.units + first * units + h * padded, h, f);
      round_rows(f.mix, mixed, b.mix + first * mixed);
    }
    this->after(p, b);
  }

 protected:
  Frame frame(char* base, bool backward) const {
    int64_t used = 0;
    const auto take = [&](int64_t floats) {
      float* const at = (float*)(base + used);
      used += round_up((floats + kPanel) * sizeof(float), 64);
      return at;
    };
    Frame f;
    const int64_t rows = bands + kSpace;
    f.turned = take(padded * row), f.weights = take(rows * row), f.mix = take(rows * mixed);
    f.turned_grad = take(backward ? padded * row : 0), f.grads = take(backward ? rows * row : 0);
    f.grad_units = take(backward ? rows * units : 0);
    f.bytes = used;
    return f;
  }

  Patch patch(int64_t block) const {
    const int64_t first = block % groups * per;
    return {block / groups, first, std::min(per, t.frames - first), 0, bands};
  }

  void round_rows(const float* from, int64_t columns, Element* to) const {
    for (int64_t i = 0; i < bands * columns; i += kLanes) put(to + i, load(from + i));
  }

  // The bands of a head as columns, times `by`; columns beyond them are zeros.
  void turn(const float* from, int64_t from_row, float by, float* to) const {
    for (int64_t n = 0; n < row; n += kLanes)
      for (int64_t c = 0; c < padded; c += kLanes) {
        F m[kLanes];
        for (int i = 0; i < kLanes; ++i) m[i] = n + i < bands ? load(from + (n + i) * from_row + c) * by : F{};
        transpose(m);
        for (int i = 0; i < kLanes; ++i) store(to + (c + i) * row + n, m[i]);
      }
  }

  // out[bands, columns of a head] = A * B, where A has rows a_row floats apart and columns a_column.
  USSFAST_INLINE void head_product(const float* a, int64_t a_row, int64_t a_column, const float* b, int64_t b_row, float* out,
                                   int64_t out_row) const {
    for (int64_t c = 0; c < padded; c += kPanel)
      product<Float32, 2, false>(bands, a, a_row * 4, a_column * 4, b + c, b_row * 4, bands, out + c, out_row * 4);
  }

  // out[keys, queries] = A * B, where A is rows of a head as inner(...) gave them and B was turned.
  USSFAST_INLINE void scores(const float* a, const float* turned, float* out) const {
    for (int64_t n = 0; n < row; n += kPanel)
      product<Float32, 2, false>(bands, a, units * 4, 4, turned + n, row * 4, t.head_width, out + n, row * 4);
  }

  // Weights, and what they mix, of one head with its queries at q.
  void mix_head(const float* q, int64_t head, const Frame& f) const {
    turn(q, units, scale * kLog2e, f.turned);
    scores(q + mixed, f.turned, f.weights);
    for (int64_t n = 0; n < row; n += kLanes) {
      float* const at = f.weights + n;
      F top = load(at), sum = {};
      for (int64_t k = 1; k < bands; ++k) top = max(top, load(at + k * row));
      for (int64_t k = 0; k < bands; ++k) {
        const F weight = exp2_negative(load(at + k * row) - top);
        store(at + k * row, weight);
        sum += weight;
      }
      sum = reciprocal(sum);
      for (int64_t k = 0; k < bands; ++k) store(at + k * row, load(at + k * row) * sum);
    }
    head_product(f.weights, 1, row, q + 2 * mixed, units, f.mix + head * padded, mixed);
  }
};

template <class P>
struct BandAttentionBackward : BandAttention<P> {
  using Base = BandAttention<P>;
  using typename Base::Buffers, typename Base::Frame;
  using Base::units, Base::mixed, Base::t, Base::bands, Base::padded, Base::row, Base::per, Base::at;

  explicit BandAttentionBackward(const BandAttentionArgs& args) : Base(args) {}

  int64_t blocks() const { return t.chunks; }
  int64_t scratch() const { return this->bytes(per * bands, true) + this->frame(nullptr, true).bytes; }

  void run(int64_t chunk, char* memory) const {
    float* sums = t.sums + chunk * at.size;
    std::memset(sums, 0, at.size * sizeof(float));
    const int64_t all = Base::blocks();
    const Buffers b = this->buffers(memory, per * bands, true);
    const Frame f = this->frame(b.rest, true);
    for (int64_t i = all * chunk / t.chunks; i < all * (chunk + 1) / t.chunks; ++i) {
      const Patch p = this->patch(i);
      this->before(p, b);
      this->after_backward(p, b);
      for (int64_t first = 0; first < p.rows(); first += bands) {
        for (int64_t h = 0; h < t.heads; ++h) {
          const float* q = b.units + first * units + h * padded;
          this->mix_head(q, h, f);
          head_backward(q, b.grad_mix + first * mixed + h * padded, f, f.grad_units + h * padded);
        }
        this->round_rows(f.mix, mixed, b.mix + first * mixed);
        this->round_rows(f.grad_units, units, b.grad_units + first * units);
      }
      this->before_backward(p, b, sums);
    }
  }

 private:
  // Gradients of q, k and v of one head, from its weights and the gradients of what they mix.
  void head_backward(const float* q, const float* grad, const Frame& f, float* of_q) const {
    this->head_product(f.weights, row, 1, grad, mixed, of_q + 2 * mixed, units);
    this->turn(grad, mixed, this->scale, f.turned_grad);
    this->scores(q + 2 * mixed, f.turned_grad, f.grads);
    for (int64_t n = 0; n < row; n += kLanes) {
      F sum = {};
      for (int64_t k = 0; k < bands; ++k) sum += load(f.weights + k * row + n) * load(f.grads + k * row + n);
      for (int64_t k = 0; k < bands; ++k) {
        float* const g = f.grads + k * row + n;
        store(g, load(f.weights + k * row + n) * (load(g) - sum));
      }
    }
    this->head_product(f.grads, 1, row, q + mixed, units, of_q, units);
    this->head_product(f.grads, row, 1, q, units, of_q + mixed, units);
  }
};

}  // namespace
}  // namespace ussfast
