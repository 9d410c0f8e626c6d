// Behind the blocks: prompts scale and shift the frame, bins gather from its bands, masks meet the spectrum they are
// for.
#pragma once

#include "causal_front.h"
#include "causal_wave.h"
#include "norm.h"
#include "spectrum.h"

namespace ussfast {
namespace {

struct CausalModulate {
  const CausalBackArgs& a;

  int64_t blocks() const { return a.items; }
  int64_t scratch() const { return round_up(a.dim, 16) * sizeof(float); }

  void run(int64_t item, char* memory) const {
    float* normed = (float*)memory;
    const int64_t size = a.bands * a.dim;
    const float *scale = a.scale + a.places[item] * a.modulation;
    const float* shift = a.shift + a.places[item] * a.modulation;
    for (int64_t band = 0; band < a.bands; ++band) {
      normalize_row(a.x + item * size + band * a.dim, a.norm.weight, normed, a.norm.groups, a.dim / a.norm.groups,
                    a.norm.eps);
      for (int64_t prompt = 0; prompt < a.first[item + 1] - a.first[item]; ++prompt) {
        const int64_t at = prompt * size + band * a.dim;
        float* to = a.prompted + a.first[item] * size + at;
        for (int64_t c = 0; c < a.dim; ++c) to[c] = normed[c] * scale[at + c] + shift[at + c];
      }
    }
  }
};

// What the bins of an item gather, [bands][heads][prompts][width]: a head's columns are adjacent for the product.
struct CausalValues {
  const CausalBackArgs& a;
  const int64_t width;

  explicit CausalValues(const CausalBackArgs& args) : a(args), width(args.inner / args.heads) {}
  int64_t blocks() const { return a.items; }
  int64_t scratch() const { return (a.sources * a.bands + kSpareRows) * kPanel * sizeof(float); }

  void run(int64_t item, char* memory) const {
    float* out = (float*)memory;
    const int64_t prompts = a.first[item + 1] - a.first[item], rows = prompts * a.bands;
    const float* x = a.extracted + a.first[item] * a.bands * a.dim;
    float* values = a.values + item * a.sources * a.bands * a.inner;
    for (int64_t c = 0; c < a.inner; c += kPanel) {
      product<Float32, 2, false>(rows, x, a.dim * 4, 4, a.value + c * a.dim, kPanel * 4, a.dim, out, kPanel * 4);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = c; i < std::min(c + kPanel, a.inner); ++i) {
          const int64_t band = r % a.bands, head = i / width;
          values[((band * a.heads + head) * prompts + r / a.bands) * width + i % width] =
              out[r * kPanel + i - c] + a.value_bias[i];
        }
    }
  }
};

// A panel of bins: what they gathered weighs their own features, and the mask is linear in the product.
struct CausalParts {
  const CausalBackArgs& a;
  const BinRows rows;
  const int64_t panels, width;

  explicit CausalParts(const CausalBackArgs& args)
      : a(args), rows(args.bins), panels(rows.lanes / kPanel), width(args.inner / args.heads) {}
  int64_t blocks() const { return a.items * panels; }
  int64_t scratch() const { return panel_floats(a.sources * width) * sizeof(float); }

  void run(int64_t block, char* memory) const {
    float* mixed = (float*)memory;  // [prompts][width of a head][kPanel]
    const int64_t item = block / panels, panel = block % panels, count = a.first[item + 1] - a.first[item];
    const float* own = a.own + item * a.inner * rows.lanes + panel * kPanel;
    float* parts = a.parts + item * a.sources * 6 * rows.wide + kLanes + panel * kPanel;
    // What lies next to the bins is zero to them; behind the last panel, its weights see to that.
    for (int64_t i = 0; i < 6 * count; ++i) {
      if (panel == 0) store(parts + i * rows.wide - kLanes, F{});
      if (panel + 1 == panels) store(parts + i * rows.wide + kPanel, F{});
    }
    for (int64_t head = 0; head < a.heads; ++head) {
      const int64_t row = a.heads * count * width;  // of values
      product<Float32, 2, false>(count * width, a.values + item * a.sources * a.bands * a.inner + head * count * width,
                                 4, row * 4, a.weights + (head * panels + panel) * a.bands * kPanel, kPanel * 4,
                                 a.bands, mixed, kPanel * 4);
      for (int64_t prompt = 0; prompt < count; ++prompt)
        gather(head, mixed + prompt * width * kPanel, own + head * width * rows.lanes, parts + prompt * 6 * rows.wide);
    }
  }

 private:
  // Adds one head's share to the six parts.
  void gather(int64_t head, const float* mixed, const float* own, float* parts) const {
    for (int v = 0; v < 2; ++v, mixed += kLanes, own += kLanes, parts += kLanes) {
      F acc[6];
      for (int i = 0; i < 6; ++i) acc[i] = head ? load(parts + i * rows.wide) : F{};
      const float* out = a.out + head * width;
      for (int64_t c = 0; c < width; ++c) {
        const F weighted = load(mixed + c * kPanel) * load(own + c * rows.lanes);
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) acc[i] += out[i * a.inner + c] * weighted;
      }
      for (int i = 0; i < 6; ++i) store(parts + i * rows.wide, acc[i]);
    }
  }
};

template <size_t... L>
USSFAST_INLINE F interleave(F a, F b, int half, std::index_sequence<L...>) {
  return half ? __builtin_shufflevector(a, b, (kLanes / 2 + L / 2 + L % 2 * kLanes)...)
              : __builtin_shufflevector(a, b, (L / 2 + L % 2 * kLanes)...);
}

// A row of every source: the masks of the newest frame are for the spectrum that waited longest.
struct CausalMasks {
  const CausalBackArgs& a;
  const BinRows rows;

  explicit CausalMasks(const CausalBackArgs& args) : a(args), rows(args.bins) {}
  int64_t blocks() const { return a.items * a.channels; }
  int64_t scratch() const { return 0; }

  void run(int64_t row, char*) const {
    const int64_t item = row / a.channels, count = a.first[item + 1] - a.first[item], size = 2 * a.bins;
    const float* spec = a.spec + row * size;
    float* waiting = a.waiting + state_row(a.places, a.channels, row) * a.ahead * size;
    const float* target = a.ahead ? waiting : spec;
    float* estimate = a.estimate + row * a.sources * size;
    for (int64_t prompt = 0; prompt < count; ++prompt)
      mask(a.parts + (item * a.sources + prompt) * 6 * rows.wide + kLanes, target, estimate + prompt * size);
    std::memset(estimate + count * size, 0, (a.sources - count) * size * sizeof(float));
    push_frame(waiting, a.ahead, size, spec);
  }

 private:
  void mask(const float* parts, const float* target, float* to) const {
    constexpr auto lanes = std::make_index_sequence<kLanes>();
    for (int64_t bin = 0; bin < a.bins; bin += kLanes) {
      F m[2];
      for (int i = 0; i < 2; ++i) {
        const float *below = parts + i * rows.wide + bin - 1, *here = below + 2 * rows.wide + 1;
        m[i] = load(below) + load(here) + load(here + 2 * rows.wide + 1) + a.out_bias[i];
      }
      for (int half = 0; half < 2; ++half) {
        const int64_t at = 2 * bin + half * kLanes, left = 2 * a.bins - at;
        store_some(to + at, complex_product(interleave(m[0], m[1], half, lanes), load_some(target + at, left), lanes),
                   left);
      }
    }
  }
};

}  // namespace
}  // namespace ussfast
