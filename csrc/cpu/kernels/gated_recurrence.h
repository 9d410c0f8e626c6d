// The recurrence of the causal model: RMSNorm -> matrix -> gates -> scan over frames -> matrix -> residual.
//
// A block is a few bands of one item, in patches of consecutive frames; the state between them stays in the cache. The
// forward pass may keep the state before every patch: the backward pass goes through the patches from the last to the
// first, and from there computes the states in between again.
#pragma once

#include "residual.h"

namespace ussfast {
namespace {

// h = (1 - z) h + z tanh(g), in a way that needs one operation less.
USSFAST_INLINE F step(F before, F z, F value) { return before + z * (value - before); }

template <class P>
struct GatedRecurrence : ResidualLayer<P> {
  using Base = ResidualLayer<P>;
  using typename Base::Buffers, typename Base::Element;
  using Base::width, Base::units, Base::channels;

  const GatedRecurrenceArgs& r;
  const int64_t groups, patches;

  explicit GatedRecurrence(const GatedRecurrenceArgs& args)
      : Base(args), r(args), groups(args.groups()), patches(args.patches()) {}

  int64_t blocks() const { return r.batch * groups; }
  int64_t scratch() const { return this->bytes(kRecurrenceRows, false) + kRecurrenceBands * width * sizeof(float); }

  void run(int64_t block, char* memory) const {
    const Buffers b = this->buffers(memory, kRecurrenceRows, false);
    float* state = (float*)b.rest;
    read_state(block, r.state, state);
    for (int64_t i = 0; i < patches; ++i) {
      const Patch p = patch(block, i);
      if (r.states != nullptr) std::memcpy(kept(block, i), state, p.bands * width * sizeof(float));
      this->before(p, b);
      for (int64_t row = 0, band = 0; row < p.rows(); ++row, band = band + 1 < p.bands ? band + 1 : 0)
        for (int64_t c = 0; c < width; c += kLanes) {
          const float* u = b.units + row * units + c;
          float* h = state + band * width + c;
          const F z = sigmoid(load(u) + load(r.inner_bias + c));
          const F value = tanh(load(u + width) + load(r.inner_bias + width + c));
          const F gate = load(u + 2 * width) + load(r.inner_bias + 2 * width + c), after = step(load(h), z, value);
          store(h, after);
          put(b.mix + row * width + c, after * silu(gate));
        }
      this->after(p, b);
    }
    write_state(block, state, r.last);
  }

 protected:
  Patch patch(int64_t block, int64_t i) const {
    const int64_t band = block % groups * kRecurrenceBands, frame = i * kRecurrenceFrames;
    return {block / groups, frame, std::min(kRecurrenceFrames, r.frames - frame), band,
            std::min(kRecurrenceBands, r.bands - band)};
  }

  float* kept(int64_t block, int64_t i) const { return r.states + (block * patches + i) * kRecurrenceBands * width; }

  void read_state(int64_t block, const float* from, float* to) const {
    const Patch p = patch(block, 0);
    for (int64_t b = 0; b < p.bands; ++b)
      for (int64_t c = 0; c < width; c += kLanes)
        store(to + b * width + c, from == nullptr ? splat(0.0f) : load_some(place(p, from, b) + c, channels - c));
  }
  void write_state(int64_t block, const float* from, float* to) const {
    const Patch p = patch(block, 0);
    for (int64_t b = 0; b < p.bands; ++b)
      for (int64_t c = 0; c < channels; c += kLanes)
        store_some(place(p, to, b) + c, load(from + b * width + c), channels - c);
  }
  template <class T>
  T* place(const Patch& p, T* states, int64_t band) const {
    return states + (p.item * r.bands + p.band + band) * channels;
  }
};

template <class P>
struct GatedRecurrenceBackward : GatedRecurrence<P> {
  using Base = GatedRecurrence<P>;
  using typename Base::Buffers, typename Base::Element;
  using Base::width, Base::units, Base::patches, Base::r, Base::at;

  explicit GatedRecurrenceBackward(const GatedRecurrenceArgs& args) : Base(args) {}

  int64_t blocks() const { return r.chunks; }
  int64_t scratch() const {
    return this->bytes(kRecurrenceRows, true) + (kRecurrenceRows + 2 * kRecurrenceBands) * width * sizeof(float);
  }

  void run(int64_t chunk, char* memory) const {
    float* sums = r.sums + chunk * at.size;
    std::memset(sums, 0, at.size * sizeof(float));
    const int64_t all = Base::blocks();
    const Buffers b = this->buffers(memory, kRecurrenceRows, true);
    float *grad_state = (float*)b.rest, *states = grad_state + kRecurrenceBands * width;
    for (int64_t i = all * chunk / r.chunks; i < all * (chunk + 1) / r.chunks; ++i) {
      this->read_state(i, r.grad_last, grad_state);
      for (int64_t k = patches - 1; k >= 0; --k) {
        const Patch p = this->patch(i, k);
        std::memcpy(states, this->kept(i, k), p.bands * width * sizeof(float));
        this->before(p, b);
        scan(p, b, states);
        this->after_backward(p, b);
        gates_backward(p, b, states, grad_state, sums + at.inner_bias);
        this->before_backward(p, b, sums);
      }
      this->write_state(i, grad_state, r.grad_state);
    }
  }

 private:
  // States behind those before the patch; z and tanh(g) in the place of their pre-activations.
  void scan(const Patch& p, const Buffers& b, float* states) const {
    for (int64_t row = 0; row < p.rows(); ++row)
      for (int64_t c = 0; c < width; c += kLanes) {
        float *u = b.units + row * units + c, *h = states + row * width + c;
        const F z = sigmoid(load(u) + load(r.inner_bias + c));
        const F value = tanh(load(u + width) + load(r.inner_bias + width + c));
        store(u, z), store(u + width, value);
        store(h + p.bands * width, step(load(h), z, value));
      }
  }

  void gates_backward(const Patch& p, const Buffers& b, const float* states, float* grad_state, float* biases) const {
    int64_t band = p.bands;
    for (int64_t row = p.rows() - 1; row >= 0; --row) {
      band = (band > 0 ? band : p.bands) - 1;
      for (int64_t c = 0; c < width; c += kLanes) {
        const float *u = b.units + row * units + c, *h = states + row * width + c;
        float *carry = grad_state + band * width + c, *bias = biases + c;
        const F z = load(u), value = load(u + width), before = load(h), after = load(h + p.bands * width);
        const F gate = load(u + 2 * width) + load(r.inner_bias + 2 * width + c), open = sigmoid(gate), lit = gate * open;
        const F grad = load(b.grad_mix + row * width + c), of_state = load(carry) + grad * lit;
        const F of_value = of_state * z * (1.0f - value * value), of_z = of_state * (value - before) * z * (1.0f - z);
        const F of_gate = grad * after * (open + lit * (1.0f - open));
        store(carry, of_state * (1.0f - z));
        put(b.mix + row * width + c, after * lit);
        Element* to = b.grad_units + row * units + c;
        put(to, of_z), put(to + width, of_value), put(to + 2 * width, of_gate);
        store(bias, load(bias) + of_z);
        store(bias + width, load(bias + width) + of_value);
        store(bias + 2 * width, load(bias + 2 * width) + of_gate);
      }
    }
  }
};

}  // namespace
}  // namespace ussfast
