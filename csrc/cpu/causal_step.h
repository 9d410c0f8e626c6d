// What a causal model's step is told: its sizes, its tensors, and where its memory lies.
#pragma once

#include <iterator>

#include "packed.h"
#include "shared.h"
#include "taker.h"

namespace ussfast {

struct Layer {
  int64_t hidden, kernel;  // 0 where there is none
};

// What a model's configuration says, in the order of `_sizes` in causal_native.py; what a call adds.
struct Sizes {
  int64_t hop, bands, inner, bin_heads, frames, band_hidden, bin_hidden, dim, groups, heads, head_width, window, limit,
      ahead, blocks;
  Layer freq_before, freq_after, time_before, time_after, extraction;
  int64_t rows = 0, items = 0, sources = 0, known = 0;  // known: items of the state

  explicit Sizes(at::IntArrayRef list) {
    int64_t* const fields[] = {
        &hop, &bands, &inner, &bin_heads, &frames, &band_hidden, &bin_hidden, &dim, &groups, &heads, &head_width,
        &window, &limit, &ahead, &blocks, &freq_before.hidden, &freq_before.kernel, &freq_after.hidden,
        &freq_after.kernel, &time_before.hidden, &time_before.kernel, &time_after.hidden, &time_after.kernel,
        &extraction.hidden, &extraction.kernel};
    TORCH_CHECK(list.size() == std::size(fields), "_causal_step_: ", std::size(fields), " sizes are expected, got ",
                list.size());
    for (size_t i = 0; i < list.size(); ++i) *fields[i] = list[i];
  }
  int64_t channels() const { return rows / items; }
  int64_t state_rows() const { return known * channels(); }
  int64_t bins() const { return hop + 1; }
  int64_t panel() const { return 2 * kernels().lanes; }
  int64_t lanes() const { return round_up(bins(), panel()); }
  int64_t wide() const { return lanes() + panel(); }
  int64_t width() const { return heads * head_width; }
  int64_t frame() const { return bands * dim; }  // floats of one item between the layers
  Sequences along_bands(int64_t items) const {
    const int64_t size = frame();
    return {items, 1, bands, dim, size, size, dim, size, size, dim};
  }
  int64_t rope_row() const {
    AttentionArgs args = {};
    args.at = along_bands(1);
    return args.padded(panel());
  }
};

// Memory between the parts of a step, in floats.
struct Buffers {
  explicit Buffers(const Sizes& s) {
    planar = add(s.items * s.frames * 3 * s.wide());
    kv_lanes = add(s.items * (2 * s.inner + kSpareRows) * s.lanes());
    own = add(s.items * s.inner * s.lanes());
    for (int64_t& x : frames) x = add(s.items * s.frame());
    for (int64_t& x : pairs) x = add((s.items * s.sources * s.bands + kSpareRows) * s.dim);
    values = add(s.items * s.sources * s.bands * s.inner + kSpareRows);
    parts = add(s.items * s.sources * 6 * s.wide());
  }
  int64_t floats() const { return layout.size() / int64_t(sizeof(float)); }
  int64_t add(int64_t count) { return layout.add<float>(count) / int64_t(sizeof(float)); }

  Layout layout;
  int64_t planar, kv_lanes, own, frames[2], pairs[2], values, parts;
};

}  // namespace ussfast
