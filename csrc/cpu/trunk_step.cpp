// One hop of the causal model in one call, see ussfast/models/causal/step.py.
//
// It changes its state in place, unlike every op, so it is no op of its own, has no gradient, and is called only on a
// state that nobody else holds.
#include <iterator>
#include <vector>

#include <ATen/ops/fft_irfft.h>
#include <ATen/ops/fft_rfft.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/SmallVector.h>
#include <torch/library.h>

#include "pack.h"
#include "shared.h"
#include "taker.h"

namespace ussfast {
namespace {

using at::Tensor;

// What a model's configuration says, in the order of `_sizes` in step.py, and what a call adds.
struct TrunkSizes {
  int64_t hop, dim, hidden, heads, features, blocks;
  at::IntArrayRef widths;
  int64_t items = 0, channels = 0, sources = 0, known = 0;  // known: items of the state

  explicit TrunkSizes(at::IntArrayRef list) {
    int64_t* const fields[] = {&hop, &dim, &hidden, &heads, &features, &blocks};
    constexpr size_t count = std::size(fields);
    TORCH_CHECK(list.size() > count, "_trunk_step_: too few sizes: ", list);
    for (size_t i = 0; i < count; ++i) *fields[i] = list[i];
    widths = list.slice(count);
    constexpr int64_t most = 1 << 16;  // products of three such sizes and a number of tensors' rows do not overflow
    for (const int64_t size : list)
      TORCH_CHECK(size > 0 && size <= most, "_trunk_step_: sizes must be 1 to ", most, ": ", list);
    TORCH_CHECK(dim % heads == 0, "_trunk_step_: ", heads, " heads for ", dim, " channels");
    hidden = round_up(hidden, lanes());
  }
  static int64_t lanes() { return kernels().lanes; }
  static int64_t panel() { return 2 * lanes(); }
  int64_t bins() const { return hop + 1; }
  int64_t bands() const { return widths.size(); }
  int64_t row() const { return round_up(bins(), panel()); }  // of bins
  int64_t width() const { return round_up(dim, panel()); }
  int64_t units() const { return 2 * round_up(2 * dim, lanes()); }  // of the decoder
  int64_t size() const { return bands() * dim; }
};

// Memory between the parts of a step, in floats; each part with room for a panel more.
struct TrunkBuffers {
  explicit TrunkBuffers(const TrunkSizes& s) {
    const int64_t pairs = s.items * s.sources;
    planar = add(s.items * s.features * s.row());
    interleaved = add(s.items * s.bins() * s.features);
    x = add(s.items * s.size());
    headed = add(pairs * s.size());
    masks = add(pairs * 2 * s.row());
  }
  int64_t floats() const { return layout.size() / int64_t(sizeof(float)); }
  int64_t add(int64_t count) {
    return layout.add<float>(count + TrunkSizes::panel()) / int64_t(sizeof(float));
  }

  Layout layout;
  int64_t planar, interleaved, x, headed, masks;
};

int64_t trunk_step_floats(at::IntArrayRef sizes, int64_t items, int64_t sources) {
  constexpr int64_t most = 1 << 20;
  TORCH_CHECK(items > 0 && items <= most && sources > 0 && sources <= most, "_trunk_step_: ", items, " items of ", sources,
              " sources");
  TrunkSizes s(sizes);
  s.items = items, s.sources = sources;
  return TrunkBuffers(s).floats();
}

// Takes what lies behind each other in one tensor of bytes, each part at a cache line: a list of as many tensors would
// take its time in every call.
class TrunkWeights {
 public:
  explicit TrunkWeights(const Tensor& all) : data_(all.const_data_ptr<uint8_t>()), size_(all.numel()) {
    TORCH_CHECK(all.is_contiguous() && all.device().is_cpu(), "_trunk_step_: weights must be adjacent, on the CPU");
  }

  template <typename T>
  const T* next(int64_t count) {
    const int64_t at = at_;
    at_ += round_up(count * int64_t(sizeof(T)), 64);
    TORCH_CHECK(at_ <= size_, "_trunk_step_: ", size_, " bytes of weights are too few");
    return reinterpret_cast<const T*>(data_ + at);
  }
  void finish() const { TORCH_CHECK(at_ == size_, "_trunk_step_: ", size_, " bytes of weights, not ", at_); }

 private:
  const uint8_t* data_;
  int64_t size_, at_ = 0;
};

class TrunkStep {
 public:
  TrunkStep(const TrunkSizes& sizes, Precision precision, const int64_t* places, const Tensor& weights,
            at::TensorList modulation, at::TensorList state)
      : s_(sizes), group_(group_of(precision)), weights_(weights), modulation_(modulation, "modulation"),
        state_(state, "state") {
    edges_.push_back(0);
    for (const int64_t width : s_.widths) edges_.push_back(edges_.back() + width);
    TORCH_CHECK(edges_.back() == s_.bins(), "_trunk_step_: bands of ", edges_.back(), " bins for ", s_.bins());
    a = {.items = s_.items, .channels = s_.channels, .sources = s_.sources, .places = places, .hop = s_.hop,
         .bins = s_.bins(), .bands = s_.bands(), .dim = s_.dim, .hidden = s_.hidden, .heads = s_.heads,
         .features = s_.features, .blocks = s_.blocks, .edges = edges_.data(), .eps = 1e-5f};
    take_modulation();
    take_rest();
    weights_.finish(), modulation_.finish(), state_.finish();
  }

  void use(float* memory) {
    const TrunkBuffers at(s_);
    a.planar = memory + at.planar, a.interleaved = (char*)(memory + at.interleaved), a.x = memory + at.x;
    a.headed = (char*)(memory + at.headed), a.masks = memory + at.masks;
  }

  TrunkArgs a = {};

 private:
  const float* weight(int64_t count) { return weights_.next<float>(count); }
  // Packed: elements of the products' precision, as bytes.
  int64_t panels(int64_t columns, int64_t depth) const {
    return round_up(columns, s_.panel()) * (round_up(depth, group_) / group_) * 4;
  }
  const char* packed(int64_t bytes) { return weights_.next<char>(bytes); }

  TrunkFfn ffn() {
    TrunkFfn layer;
    layer.norm = weight(s_.width());
    layer.inner = packed(panels(2 * s_.hidden, 3 * s_.dim));
    layer.inner_bias = weight(round_up(2 * s_.hidden, s_.panel()));
    layer.outer = packed(panels(s_.dim, s_.hidden));
    layer.outer_bias = weight(s_.width());
    return layer;
  }

  void take_modulation() {
    const int64_t given = modulation_.peek().numel();
    TORCH_CHECK(given == 1 || given == s_.known, "_trunk_step_: modulation of ", given, " items for ", s_.known);
    const int64_t* count = modulation_.next<const int64_t>(given);
    const int64_t prompts = modulation_.peek().numel() / (given * s_.size());
    TORCH_CHECK(prompts <= s_.sources, "_trunk_step_: ", prompts, " prompts for ", s_.sources, " sources");
    a.scales = modulation_.next<const float>(prompts * given * s_.size());
    a.shifts = modulation_.next<const float>(prompts * given * s_.size());
    a.modulation = given == 1 ? 0 : prompts * s_.size();
    first_.resize(s_.items + 1);
    for (int64_t item = 0; item < s_.items; ++item)
      first_[item + 1] = first_[item] + std::clamp<int64_t>(count[given == 1 ? 0 : a.places[item]], 0, prompts);
    a.first = first_.data(), a.pairs = first_.back();
  }

  // In the order in which a step reads them, so that what is fetched ahead is what comes next.
  void take_rest() {
    const int64_t rows = s_.known * s_.channels, depth = 27;
    a.window = weight(2 * s_.hop), a.scale = weight(s_.hop);
    a.release = *weight(1);
    a.context = state_.next(rows * s_.hop);
    a.overlap = state_.next(rows * s_.sources * s_.hop);
    a.level = state_.next(s_.known);
    a.last = state_.next(s_.known * 2 * s_.bins() * 3);
    a.conv = weight(s_.features * depth), a.conv_bias = weight(s_.features);
    int64_t in = 0, out = 0;
    for (const int64_t width : s_.widths) {
      in += panels(s_.dim, width * s_.features);
      out += panels(2 * (width + s_.features), s_.units() / 2);
    }
    a.encoder = packed(in);
    a.band_rows = weight(s_.size());
    take_blocks();
    a.trunk_norm = weight(s_.width());
    a.head = ffn();
    a.decoder_norm = weight(s_.width());
    a.decoder_inner = packed(s_.bands() * panels(s_.units(), s_.dim));
    a.decoder_out = packed(out);
    a.mask_bias = weight(2 * s_.row() + s_.panel());
  }

  void take_blocks() {
    for (int64_t i = 0; i < s_.blocks; ++i) {
      TrunkBlock block;
      block.attention_norm = weight(s_.width());
      block.qkv = packed(panels(3 * s_.dim, s_.dim)), block.out = packed(panels(s_.dim, s_.dim));
      block.bands = ffn();
      block.recurrence_norm = weight(s_.width());
      block.inner = packed(panels(3 * s_.dim, s_.dim));
      block.inner_bias = weight(round_up(3 * s_.dim, s_.panel()) + s_.panel());
      block.outer = packed(panels(s_.dim, s_.dim));
      block.time = ffn();
      block.memory = state_.next(s_.known * s_.size()), block.past = state_.next(s_.known * 2 * s_.size());
      blocks_.push_back(block);
    }
    a.block = blocks_.data();
  }

  const TrunkSizes s_;
  const int64_t group_;
  TrunkWeights weights_;
  Taker modulation_, state_;
  c10::SmallVector<int64_t, 64> edges_;
  c10::SmallVector<int64_t, 16> first_ = {0};
  c10::SmallVector<TrunkBlock, 8> blocks_;
};

// places: of audio's items in the state and the modulation, no two the same. work: for the rows of audio, their frames
// and spectra, the estimates of as many pairs as there may be and the inverse transforms of these, then
// `_trunk_step_floats` floats.
void trunk_step(const Tensor& audio, at::IntArrayRef places, at::IntArrayRef sizes, c10::string_view precision,
                const Tensor& weights, at::TensorList modulation, at::TensorList state, at::TensorList work,
                const Tensor& out) {
  const c10::InferenceMode guard;
  TORCH_CHECK(work.size() == 5 && state.size() > 2 && out.dim() == 3, "_trunk_step_: five tensors of work, a state and ",
              "[rows, sources, hop] are expected");
  const Precision p = precision_of(precision);
  TORCH_CHECK(p != Precision::int8, "_trunk_step_: there is no int8");
  TrunkSizes s(sizes);
  s.sources = out.size(1), s.items = places.size(), s.known = state[2].numel();
  TORCH_CHECK(audio.dim() == 2 && s.items > 0 && audio.size(0) % s.items == 0, "_trunk_step_: audio ", audio.sizes(),
              " for ", s.items, " items");
  s.channels = audio.size(0) / s.items;
  std::vector<char> taken(s.known);
  for (const int64_t place : places) {
    TORCH_CHECK(place >= 0 && place < s.known, "_trunk_step_: place ", place, " in a state of ", s.known, " items");
    TORCH_CHECK(!taken[place], "_trunk_step_: place ", place, " twice");
    taken[place] = true;
  }
  TrunkStep step(s, p, places.data(), weights, modulation, state);
  TrunkArgs& a = step.a;
  const int64_t rows = s.items * s.channels, most = rows * s.sources;
  const int64_t shapes[][2] = {{rows, 2 * s.hop}, {rows, s.bins()}, {most, s.bins()}, {most, 2 * s.hop}};
  for (size_t i = 0; i < std::size(shapes); ++i)  // a transform would make what does not fit anew
    TORCH_CHECK(work[i].sizes() == at::IntArrayRef(shapes[i]), "_trunk_step_: work ", i, " is ", work[i].sizes());
  Tensor frame = work[0], spec = work[1], estimate = work[2], late = work[3];
  Taker in(audio, "audio"), made(work, "work"), result(out, "out");
  a.audio = in.next<const float>(rows * s.hop);
  a.frame = made.next(rows * 2 * s.hop);
  a.spec = reinterpret_cast<const float*>(made.next<c10::complex<float>>(rows * s.bins()));
  a.estimate = reinterpret_cast<float*>(made.next<c10::complex<float>>(most * s.bins()));
  a.late = made.next(most * 2 * s.hop);
  step.use(made.next(TrunkBuffers(s).floats()));
  a.out = result.next(rows * s.sources * s.hop);

  const OneTransformThread planned;
  const Kernels& k = kernels();
  const int which = int(p);
  run_blocks(k.trunk_frame, a);
  at::fft_rfft_out(spec, frame);
  run_blocks(k.trunk_features[which], a);
  run_blocks(k.trunk_encode[which], a);
  run_blocks(k.trunk_layers[which], a);
  run_blocks(k.trunk_decode[which], a);
  run_blocks(k.trunk_masks, a);
  if (a.pairs) {
    Tensor asked = late.narrow(0, 0, a.pairs * s.channels);
    at::fft_irfft_out(asked, estimate.narrow(0, 0, a.pairs * s.channels), 2 * s.hop);
  }
  run_blocks(k.trunk_overlap, a);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def("_trunk_step_floats(int[] sizes, int items, int sources) -> int", &trunk_step_floats);
  m.def(
      "_trunk_step_(Tensor audio, int[] places, int[] sizes, str precision, Tensor weights, Tensor[] modulation, "
      "Tensor(a!)[] state, Tensor(b!)[] work, Tensor(c!) out) -> ()",
      &trunk_step);
}

}  // namespace ussfast
