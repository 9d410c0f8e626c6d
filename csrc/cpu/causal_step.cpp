// One hop of a causal model in one call, see ussfast/models/causal_native.py.
//
// It changes its state in place, unlike every op: a stream's rings of keys and values are some 10 MB, of which a hop
// changes less than a hundredth. Copying them would take longer than all the rest. So it is no op of its own, has no
// gradient, and is called only on a state that nobody else holds.
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/fft_irfft.h>
#include <ATen/ops/fft_rfft.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/SmallVector.h>
#include <torch/library.h>

#include "causal_step.h"

namespace ussfast {
namespace {

using at::Tensor;

int64_t step_floats(at::IntArrayRef sizes, int64_t items, int64_t sources) {
  Sizes s(sizes);
  s.items = items, s.sources = sources;
  return Buffers(s).floats();
}

class Step {
 public:
  Step(const Sizes& sizes, double eps, const int64_t* places, at::TensorList weights, at::TensorList conditioning,
       at::TensorList state, float* memory)
      : s_(sizes), at_(s_), eps_(float(eps)), places_(places), weights_(weights, "weights"),
        conditioning_(conditioning, "conditioning"), state_(state, "state"), memory_(memory) {}

  // What stands in front of the blocks; the transforms are the caller's.
  CausalWaveArgs wave(const float* audio, float* frame, const float* late, float* out) {
    const int64_t hop = s_.hop;
    CausalWaveArgs args = {.rows = s_.rows, .channels = s_.channels(), .hop = hop, .sources = s_.sources,
                           .places = places_, .audio = audio};
    args.window = weight(2 * hop), args.scale = weight(hop);
    args.context = state_.next(s_.state_rows() * hop);
    waiting_ = state_.next(s_.state_rows() * s_.ahead * s_.bins() * 2);
    args.overlap = state_.next(s_.state_rows() * s_.sources * hop);
    args.frame = frame, args.late = late, args.out = out;
    return args;
  }

  void run(const float* spec, float* estimate) {
    seen_ = state_.next<int64_t>(s_.known);
    count_pairs();
    front(spec);
    rotations();
    for (int64_t block = 0; block < s_.blocks; ++block) {
      frequency();
      time();
      swap();
    }
    back(spec, estimate);
    weights_.finish(), conditioning_.finish(), state_.finish();
    for (int64_t item = 0; item < s_.items; ++item) ++seen_[places_[item]];
  }

  // Prompt rows behind the blocks; per block, rows, keys and values of its prefix. Items are prompts.
  std::vector<Tensor> condition(const Tensor& rows) {
    const int64_t prompts = s_.items, width = s_.width();
    std::vector<Tensor> found;
    const auto add = [&](at::IntArrayRef sizes) {
      found.push_back(at::empty(sizes, rows.options()));
      return found.back().mutable_data_ptr<float>();
    };
    float* behind = add({1, prompts, s_.bands, s_.dim});
    std::copy_n(rows.const_data_ptr<float>(), prompts * s_.frame(), frame(0));
    rotations();
    for (int64_t block = 0; block < s_.blocks; ++block) {
      frequency();
      float *seen = add({1, prompts, s_.bands, s_.dim}), *keys = add({1, s_.bands, width, prompts});
      among(seen, keys, add({1, s_.bands, prompts, width}));
      swap();
    }
    std::copy_n(frame(0), prompts * s_.frame(), behind);
    return found;
  }

 private:
  void rotations() {
    const int64_t size = s_.head_width / 2 * s_.rope_row();
    cosine_ = weight(size), sine_ = weight(size);
  }
  void frequency() {
    if (s_.freq_before.hidden) feed(s_.freq_before, frame(0), frame(1), s_.items), swap();
    attend();
    swap();
    feed(s_.freq_after, frame(0), frame(1), s_.items);
    swap();
  }

  const float* weight(int64_t count) { return weights_.next<const float>(count); }
  const float* rows(int64_t count, int64_t depth) { return weight((count + kSpareRows) * depth); }
  const float* panels(int64_t columns, int64_t depth) { return weight(round_up(columns, s_.panel()) * depth); }
  float* frame(int which) { return memory_ + at_.frames[which ^ flipped_]; }
  void swap() { flipped_ ^= 1; }
  Norm norm() { return {weight(s_.dim), s_.groups, eps_}; }

  // Prompts of each item; conditioning shared by all items has one count.
  void count_pairs() {
    const int64_t given = conditioning_.peek().numel();
    TORCH_CHECK(given == 1 || given == s_.known, "_causal_step_: conditioning of ", given, " items for ", s_.known);
    const int64_t* count = conditioning_.next<const int64_t>(given);
    shared_ = given == 1;
    const int64_t size = given * s_.frame();
    prompts_ = conditioning_.peek().numel() / size;
    scale_ = conditioning_.next<const float>(prompts_ * size);
    shift_ = conditioning_.next<const float>(prompts_ * size);
    TORCH_CHECK(prompts_ <= s_.sources, "_causal_step_: ", prompts_, " prompts for ", s_.sources, " sources");
    first_.resize(s_.items + 1);
    for (int64_t item = 0; item < s_.items; ++item)
      first_[item + 1] = first_[item] + std::clamp<int64_t>(count[shared_ ? 0 : places_[item]], 0, prompts_);
  }

  void front(const float* spec) {
    const int64_t inner = s_.inner, bins = s_.bins(), depth = 9 * s_.frames + 1;
    CausalFrontArgs a = {
        .items = s_.items, .channels = s_.channels(), .bins = bins, .bands = s_.bands, .inner = inner,
        .heads = s_.bin_heads, .frames = s_.frames, .dim = s_.dim, .bin_hidden = s_.bin_hidden,
        .band_hidden = s_.band_hidden, .limit = s_.limit, .eps = 1e-6f, .spec = spec, .places = places_,
        .seen = seen_};
    a.level = state_.next(s_.known);
    a.features = state_.next(s_.known * (s_.frames - 1) * bins * 3);
    a.tokens = state_.next(s_.known * (s_.frames - 1) * s_.bands * inner);
    a.conv = rows(inner, depth), a.conv_norm = weight(inner), a.kv_norm = weight(inner), a.kv = rows(2 * inner, inner);
    a.queries = panels(s_.bands, inner);
    const auto edges = edge_table(weights_.peek(), round_up(s_.bands, s_.panel()));
    weights_.next<const int64_t>(2 * s_.bands);
    a.edges = edges.data(), a.slope = weight(s_.bin_heads), a.out = rows(inner, inner);
    if (s_.band_hidden) {
      a.band_norm = weight(inner), a.band_inner = rows(2 * s_.band_hidden, inner + 1);
      a.band_outer = rows(inner, s_.band_hidden + 1);
    }
    a.band_conv = panels(s_.dim, 3 * s_.frames * inner), a.band_bias = weight(s_.dim), a.dim_norm = weight(s_.dim);
    a.bin_norm = weight(inner), a.bin_inner = rows(2 * s_.bin_hidden, inner + 1);
    a.bin_outer = rows(inner, s_.bin_hidden + 1);
    a.planar = memory_ + at_.planar, a.kv_lanes = memory_ + at_.kv_lanes, a.own = memory_ + at_.own, a.y = frame(0);
    run_blocks(kernels().causal_features, a);
    run_blocks(kernels().causal_bins, a);
    run_blocks(kernels().causal_bands, a);
  }

  FfnArgs layer(const Layer& size, int64_t stride) {
    FfnArgs args = {};
    args.norm = norm(), args.hidden = size.hidden, args.kernel = size.kernel, args.stride = stride;
    const PackedFfn packed(size.hidden, s_.dim, size.kernel, Precision::float32);
    packed.point(args, reinterpret_cast<const char*>(weights_.next<const uint8_t>(packed.layout.size())));
    return args;
  }

  void feed(const Layer& size, const float* x, float* y, int64_t items) {
    FfnArgs args = layer(size, 1);
    args.x = x, args.y = y, args.at = s_.along_bands(items);
    run_blocks(kernels().ffn[int(Precision::float32)], args);
  }

  void attend() {
    AttentionArgs args = {.x = frame(0), .y = frame(1), .at = s_.along_bands(s_.items), .norm = norm(), .heads = s_.heads,
                          .head_width = s_.head_width, .cosine = cosine_, .sine = sine_};
    const PackedAttention packed(s_.dim, s_.width(), false);
    packed.point(args, reinterpret_cast<const char*>(weights_.next<const uint8_t>(packed.layout.size())), false);
    run_blocks(kernels().attention, args);
  }

  // A step continues sequences by their last element: that one is all that its kernel sees as their length.
  CausalFfn step_layer(const Layer& size, std::vector<float>* nothing = nullptr) {
    CausalFfn part = {.ffn = layer(size, size.kernel)};
    part.ffn.at.length = 1, part.ffn.at.channels = s_.dim;
    const int64_t past = s_.known * s_.bands * (size.kernel - 1);
    if (nothing != nullptr) nothing->assign(past * (s_.dim + size.hidden), 0.0f);
    part.inputs = nothing ? nothing->data() : state_.next(past * s_.dim);
    part.hidden = nothing ? part.inputs + past * s_.dim : state_.next(past * size.hidden);
    return part;
  }

  void time() {
    const int64_t positions = s_.items * s_.bands, width = s_.width(), ring = s_.known * s_.bands * width * s_.window;
    CausalTimeArgs args = {.positions = positions, .bands = s_.bands, .heads = s_.heads, .head_width = s_.head_width,
                           .window = s_.window, .prompts = prompts_, .shared = shared_, .x = frame(0), .y = frame(1)};
    args.keys = state_.next(ring), args.values = state_.next(ring);
    args.has_before = s_.time_before.hidden > 0;
    if (args.has_before) args.before = step_layer(s_.time_before);
    args.norm = norm();
    args.qkv = panels(3 * width, s_.dim), args.out = panels(s_.dim, width);
    args.after = step_layer(s_.time_after);
    const int64_t prefix = (shared_ ? 1 : s_.known) * s_.bands * width * prompts_;
    args.prefix_keys = conditioning_.next<const float>(prefix);
    args.prefix_values = conditioning_.next<const float>(prefix);
    args.places = places_, args.seen = seen_, args.first = first_.data();
    run_blocks(kernels().causal_time, args);
  }

  // The time path for prompts.
  void among(float* rows, float* keys, float* values) {
    CausalTimeArgs args = {.positions = s_.items * s_.bands, .bands = s_.bands, .heads = s_.heads,
                           .head_width = s_.head_width, .window = 1, .prompts = s_.items, .shared = true,
                           .x = frame(0), .y = frame(1)};
    args.keys = keys, args.values = values, args.rows = rows, args.places = places_;
    args.has_before = s_.time_before.hidden > 0;
    if (args.has_before) args.before = step_layer(s_.time_before, &before_);
    args.norm = norm();
    args.qkv = panels(3 * s_.width(), s_.dim), args.out = panels(s_.dim, s_.width());
    args.after = step_layer(s_.time_after, &after_);
    run_blocks(kernels().causal_prompts, args);
  }

  void back(const float* spec, float* estimate) {
    CausalBackArgs a = {.items = s_.items, .channels = s_.channels(), .sources = s_.sources, .bins = s_.bins(),
                        .bands = s_.bands, .dim = s_.dim, .inner = s_.inner, .heads = s_.bin_heads, .ahead = s_.ahead,
                        .places = places_, .first = first_.data(), .norm = norm(), .x = frame(0), .scale = scale_,
                        .shift = shift_, .modulation = shared_ ? 0 : prompts_ * s_.frame()};
    a.prompted = memory_ + at_.pairs[0], a.extracted = memory_ + at_.pairs[1];
    run_blocks(kernels().causal_modulate, a);
    feed(s_.extraction, a.prompted, memory_ + at_.pairs[1], first_.back());
    a.value = panels(s_.inner, s_.dim), a.value_bias = weight(s_.inner);
    a.weights = weight(s_.bin_heads * s_.lanes() * s_.bands), a.out = weight(6 * s_.inner), a.out_bias = weight(2);
    a.values = memory_ + at_.values, a.own = memory_ + at_.own, a.parts = memory_ + at_.parts;
    a.spec = spec, a.waiting = waiting_, a.estimate = estimate;
    run_blocks(kernels().causal_values, a);
    run_blocks(kernels().causal_parts, a);
    run_blocks(kernels().causal_masks, a);
  }

  const Sizes s_;
  const Buffers at_;
  const float eps_;
  const int64_t* places_;
  Taker weights_, conditioning_, state_;
  float* memory_;
  int flipped_ = 0;
  bool shared_ = false;
  int64_t prompts_ = 0;
  int64_t* seen_ = nullptr;
  float* waiting_ = nullptr;
  const float *scale_ = nullptr, *shift_ = nullptr, *cosine_ = nullptr, *sine_ = nullptr;
  c10::SmallVector<int64_t, 16> first_ = {0};  // pair of each item's first prompt
  std::vector<float> before_, after_;          // the past of prompts: zeros
};

// places: of audio's items in the state and the conditioning, no two the same. work: for the rows of audio, their
// frames, spectra, estimates and the inverse transforms of these, then `_causal_step_floats` floats.
void causal_step(const Tensor& audio, at::IntArrayRef places, at::IntArrayRef sizes, double eps, at::TensorList weights,
                 at::TensorList conditioning, at::TensorList state, at::TensorList work, const Tensor& out) {
  const c10::InferenceMode guard;
  TORCH_CHECK(work.size() == 5 && state.size() > 3, "_causal_step_: five tensors of work are expected");
  Sizes s(sizes);
  s.rows = audio.size(0), s.sources = out.size(1), s.items = places.size(), s.known = state[3].numel();
  TORCH_CHECK(audio.dim() == 2 && s.items > 0 && s.rows % s.items == 0, "_causal_step_: audio ", audio.sizes(), " for ",
              s.items, " items");
  for (const int64_t place : places)
    TORCH_CHECK(place >= 0 && place < s.known, "_causal_step_: place ", place, " in a state of ", s.known, " items");
  Tensor frame = work[0], spec = work[1], estimate = work[2], late = work[3];
  const int64_t frames = s.rows * 2 * s.hop;
  Taker in(audio, "audio"), made(work, "work"), result(out, "out");
  const float* samples = in.next<const float>(s.rows * s.hop);
  auto* frame_at = made.next(frames);
  auto* spec_at = made.next<c10::complex<float>>(s.rows * s.bins());
  auto* estimate_at = made.next<c10::complex<float>>(s.rows * s.sources * s.bins());
  const auto* late_at = made.next(frames * s.sources);
  Step step(s, eps, places.data(), weights, conditioning, state, made.next(Buffers(s).floats()));
  const OneTransformThread planned;

  const auto wave = step.wave(samples, frame_at, late_at, result.next(s.rows * s.sources * s.hop));
  run_blocks(kernels().causal_frame, wave);
  at::fft_rfft_out(spec, frame);
  step.run(reinterpret_cast<const float*>(spec_at), reinterpret_cast<float*>(estimate_at));
  at::fft_irfft_out(late, estimate, 2 * s.hop);
  run_blocks(kernels().causal_overlap, wave);
}

// rows: [prompts, bands, dim]. weights: from the rotations on. See Step::condition.
std::vector<Tensor> causal_condition(const Tensor& rows, at::IntArrayRef sizes, double eps, at::TensorList weights) {
  const c10::InferenceMode guard;
  Sizes s(sizes);
  TORCH_CHECK(rows.dim() == 3 && rows.size(0) > 0, "_causal_condition: rows ", rows.sizes());
  s.rows = s.items = s.known = rows.size(0), s.sources = 1;
  Taker(rows, "rows").next(s.items * s.frame());
  std::vector<int64_t> places;
  while (int64_t(places.size()) < s.items) places.push_back(places.size());
  const auto memory = at::empty({Buffers(s).floats()}, rows.options());
  return Step(s, eps, places.data(), weights, {}, {}, memory.mutable_data_ptr<float>()).condition(rows);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def("_causal_condition(Tensor rows, int[] sizes, float eps, Tensor[] weights) -> Tensor[]", &causal_condition);
  m.def("_causal_step_floats(int[] sizes, int items, int sources) -> int", &step_floats);
  m.def(
      "_causal_step_(Tensor audio, int[] places, int[] sizes, float eps, Tensor[] weights, Tensor[] conditioning, "
      "Tensor(a!)[] state, Tensor(b!)[] work, Tensor(c!) out) -> ()",
      &causal_step);
}

}  // namespace ussfast
