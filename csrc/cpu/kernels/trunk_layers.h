// The trunk of a few items and the heads of their prompts, from band tokens to what the masks are made of.
#pragma once

#include "attention.h"
#include "trunk_rows.h"

namespace ussfast {
namespace {

template <class P>
struct TrunkLayers : TrunkRows<P> {
  using Rows = TrunkRows<P>;
  using typename Rows::Element;
  static constexpr int64_t kItems = 4;  // of a block: they share one reading of the weights out of the second-level cache

  const TrunkArgs& a;
  const int64_t bands, dim, width, per;  // width: of the residual stream, in whole panels

  explicit TrunkLayers(const TrunkArgs& args)
      : a(args), bands(a.bands), dim(a.dim), width(round_up(a.dim, kPanel)), per(share(a.items)) {}

  // Sequences of a block: as even as they can be.
  static int64_t share(int64_t count) {
    const int64_t parts = (count + kItems - 1) / kItems;
    return parts ? (count + parts - 1) / parts : 1;
  }
  int64_t blocks() const { return (a.items + per - 1) / per; }
  int64_t scratch() const {
    const int64_t rows = kItems * bands;
    return 2 * Rows::floats(rows, width) + Rows::bytes(kItems * (bands + 2) + rows * 2, dim) +
           Rows::bytes(rows, a.hidden) + Rows::floats(rows, round_up(3 * dim, kPanel)) + attention_bytes();
  }

  void run(int64_t block, char* memory) const {
    const int64_t first = block * per, items = std::min(per, a.items - first), rows = items * bands;
    Room room = split(memory);
    for (int64_t r = 0; r < rows; ++r) copy(a.x + (first * bands + r) * dim, room.x + r * width);
    for (int64_t b = 0; b < a.blocks; ++b) {
      const TrunkBlock& layer = a.block[b];
      attention(layer, items, room);
      among_bands(layer.bands, items, room.x, room);
      recurrence(layer, first, items, room);
      along_time(layer, first, items, room);
    }
    heads(first, items, room);
  }

 private:
  struct Room {
    float *x, *y;     // [rows, width]
    Element* in;      // normalised rows
    Element* hidden;  // [rows, hidden]
    float* wide;      // [rows, 3 * dim in whole panels]
    float *queries, *more;
  };

  Room split(char* memory) const {
    const int64_t rows = kItems * bands;
    const auto take = [&](int64_t bytes) {
      char* at = memory;
      memory += bytes;
      return at;
    };
    Room room;
    room.x = (float*)take(Rows::floats(rows, width));
    room.y = (float*)take(Rows::floats(rows, width));
    room.in = (Element*)take(Rows::bytes(kItems * (bands + 2) + rows * 2, dim));
    room.hidden = (Element*)take(Rows::bytes(rows, a.hidden));
    room.wide = (float*)take(Rows::floats(rows, round_up(3 * dim, kPanel)));
    room.queries = (float*)take(round_up(dim, kPanel) * kPanel * sizeof(float));
    room.more = (float*)memory;
    return room;
  }
  int64_t attention_bytes() const {
    return (round_up(dim, kPanel) * kPanel + attend_memory(dim / a.heads)) * sizeof(float);
  }

  void copy(const float* from, float* to) const {
    for (int64_t c = 0; c < width; c += kLanes) store(to + c, load_some(from + c, dim - c));
  }

  void norms(const float* x, int64_t rows, const float* weight, Element* to, int64_t row) const {
    for (int64_t r = 0; r < rows; ++r) Rows::norm(x + r * width, weight, dim, a.eps, to + r * row);
  }

  void attention(const TrunkBlock& layer, int64_t items, const Room& room) const {
    const int64_t rows = items * bands, row = round_up(3 * dim, kPanel), size = dim / a.heads;
    norms(room.x, rows, layer.attention_norm, room.in, dim);
    Rows::template map<false>(rows, room.in, dim, layer.qkv, 3 * dim, dim, room.wide, row);
    for (int64_t item = 0; item < items; ++item)
      for (int64_t q = 0; q < bands; q += kPanel) {
        const float* qkv = room.wide + item * bands * row;
        const int64_t count = std::min<int64_t>(kPanel, bands - q);
        if (count <= kLanes) clear_upper(room.queries);
        transposed(qkv + q * row, row, count, dim, room.queries, kPanel);
        for (int64_t h = 0; h < a.heads; ++h) {
          const float* keys = qkv + dim + h * size;
          float* lanes = room.queries + h * size * kPanel;
          attend<2>({keys, keys + dim, row, 1, row, 1, size}, bands, lanes, kPanel, NoBias(), lanes, kPanel,
                    room.more);
        }
        gather(room.queries, count, room.in + (item * bands + q) * dim);
      }
    Rows::template map<true>(rows, room.in, dim, layer.out, dim, dim, room.x, width);
  }

  void clear_upper(float* queries) const {
    for (int64_t c = 0; c < dim; ++c) store(queries + c * kPanel + kLanes, F{});
  }

  // Rows of what lies there with queries as lanes.
  void gather(const float* lanes, int64_t count, Element* to) const {
    for (int64_t c = 0; c < dim; c += kLanes)
      for (int64_t r = 0; r < count; r += kLanes) {
        F m[kLanes];
        for (int i = 0; i < kLanes; ++i) m[i] = load(lanes + (c + i) * kPanel + r);
        transpose(m);
        for (int i = 0; i < kLanes && r + i < count; ++i) put_some(to + (r + i) * dim + c, m[i], dim - c);
      }
  }

  // x += what the layer makes of `inputs` sequences of normalised windows.
  void feed(const TrunkFfn& layer, int64_t inputs, int64_t apart, int64_t rows, int64_t row, float* x,
            const Room& room) const {
    Rows::expand(inputs, apart, rows, room.in, row, layer.inner, layer.inner_bias, 2 * a.hidden, 3 * dim, room.hidden);
    const int64_t all = inputs * rows;
    add_bias(layer.outer_bias, all, x);
    Rows::template map<true>(all, room.hidden, a.hidden, layer.outer, dim, a.hidden, x, width);
  }
  void add_bias(const float* bias, int64_t rows, float* x) const {
    for (int64_t r = 0; r < rows; ++r, x += width)
      for (int64_t c = 0; c < width; c += kLanes) store(x + c, load(x + c) + load(bias + c));
  }

  void among_bands(const TrunkFfn& layer, int64_t sequences, float* x, const Room& room) const {
    const int64_t apart = (bands + 2) * dim;
    for (int64_t s = 0; s < sequences; ++s) {
      Element* in = room.in + s * apart;
      std::memset(in, 0, dim * sizeof(Element));
      norms(x + s * bands * width, bands, layer.norm, in + dim, dim);
      std::memset(in + (bands + 1) * dim, 0, dim * sizeof(Element));
    }
    feed(layer, sequences, apart, bands, dim, x, room);
  }

  void along_time(const TrunkBlock& layer, int64_t first, int64_t items, const Room& room) const {
    const int64_t size = bands * dim;
    for (int64_t item = 0; item < items; ++item) {
      float *past = layer.past + a.places[first + item] * 2 * size, *x = room.x + item * bands * width;
      Element* in = room.in + item * bands * 3 * dim;
      for (int64_t band = 0; band < bands; ++band, in += 3 * dim) {
        for (int64_t t = 0; t < 2; ++t) {
          const float* row = past + t * size + band * dim;
          Rows::norm(dim % kLanes ? aside(row, room) : row, layer.time.norm, dim, a.eps, in + t * dim);
        }
        Rows::norm(x + band * width, layer.time.norm, dim, a.eps, in + 2 * dim);
      }
      std::memcpy(past, past + size, size * sizeof(float));
      for (int64_t band = 0; band < bands; ++band)
        std::memcpy(past + size + band * dim, x + band * width, dim * sizeof(float));
    }
    feed(layer.time, 1, 0, items * bands, 3 * dim, room.x, room);
  }
  // A row of the state where vectors may end behind it.
  const float* aside(const float* row, const Room& room) const {
    copy(row, room.y);
    return room.y;
  }

  void recurrence(const TrunkBlock& layer, int64_t first, int64_t items, const Room& room) const {
    const int64_t rows = items * bands, row = round_up(3 * dim, kPanel);
    norms(room.x, rows, layer.recurrence_norm, room.in, dim);
    Rows::template map<false>(rows, room.in, dim, layer.inner, 3 * dim, dim, room.wide, row);
    for (int64_t r = 0; r < rows; ++r) {
      const float *from = room.wide + r * row, *bias = layer.inner_bias;
      float* memory = layer.memory + (a.places[first + r / bands] * bands + r % bands) * dim;
      for (int64_t c = 0; c < dim; c += kLanes) {
        const auto part = [&](int64_t i) { return load(from + i * dim + c) + load(bias + i * dim + c); };
        const F z = sigmoid(part(0)), before = load_some(memory + c, dim - c);
        const F now = (1.0f - z) * before + z * tanh(part(1));
        store_some(memory + c, now, dim - c);
        put_some(room.in + r * dim + c, now * silu(part(2)), dim - c);
      }
    }
    Rows::template map<true>(rows, room.in, dim, layer.outer, dim, dim, room.x, width);
  }

  // For each pair: the trunk's frame, scaled and shifted, through the head; normalised for the decoder.
  void heads(int64_t first, int64_t items, const Room& room) const {
    for (int64_t r = 0; r < items * bands; ++r) frame_norm(room.x + r * width, room.x + r * width);
    const int64_t last = a.first[first + items];
    int64_t item = first;
    for (int64_t pair = a.first[first]; pair < last;) {
      const int64_t count = std::min(kItems, last - pair);
      for (int64_t p = 0; p < count; ++p) {
        while (a.first[item + 1] <= pair + p) ++item;
        modulate(item, pair + p - a.first[item], room.x + (item - first) * bands * width, room.y + p * bands * width);
      }
      among_bands(a.head, count, room.y, room);
      Element* row = room.in;
      for (int64_t p = 0; p < count; ++p)
        for (int64_t band = 0; band < bands; ++band) {
          Rows::norm(room.y + (p * bands + band) * width, a.decoder_norm, dim, a.eps, row);
          std::memcpy((Element*)a.headed + (band * a.pairs + pair + p) * dim, row, dim * sizeof(Element));
        }
      pair += count;
    }
  }
  void frame_norm(const float* x, float* to) const { TrunkRows<Float32>::norm(x, a.trunk_norm, dim, a.eps, to); }
  void modulate(int64_t item, int64_t prompt, const float* x, float* y) const {
    const int64_t at = a.places[item] * a.modulation + prompt * bands * dim;
    for (int64_t band = 0; band < bands; ++band)
      for (int64_t c = 0; c < width; c += kLanes) {
        const int64_t from = at + band * dim + c, n = dim - c;
        const F value = load(x + band * width + c) * load_some(a.scales + from, n) + load_some(a.shifts + from, n);
        store(y + band * width + c, value);
      }
  }
};

}  // namespace
}  // namespace ussfast
