// All kernels, and their table under the name that the including file has set: USSFAST_TABLE.
#include "band_attention.h"
#include "band_masks_backward.h"
#include "band_tokens.h"
#include "bands.h"
#include "conv_ffn_backward.h"
#include "cross_attention_backward.h"
#include "ffn_gradient.h"
#include "gated_recurrence.h"
#include "locoformer_attention_backward.h"
#include "resample.h"
#include "spectrum.h"
#include "trunk_ends.h"
#include "trunk_layers.h"
#include "trunk_wave.h"

namespace ussfast {
namespace {

// While it lives, results too small for a normal float become 0 on this thread: weights of a softmax and the end of a
// fading sound are so small, and x86 CPUs take ten times as long for arithmetic with them.
class FlushTiny {
#if defined(__SSE__)
 public:
  FlushTiny() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | 0x8040); }
  ~FlushTiny() { __builtin_ia32_ldmxcsr(before_); }
  FlushTiny(const FlushTiny&) = delete;

 private:
  const unsigned before_;
#else
 public:
  FlushTiny() {}
#endif
};

// A kernel is a class: made from its arguments, it tells how many blocks there are and runs one.
template <class Kernel, class Args>
constexpr Blocks<Args> block_kernel() {
  return {[](const Args& args) { return Kernel(args).blocks(); },
          [](const Args& args) { return Kernel(args).scratch(); },
          [](const Args& args, int64_t first, int64_t last, char* scratch) {
            const FlushTiny flush;
            const Kernel kernel(args);
            for (int64_t block = first; block < last; ++block) kernel.run(block, scratch);
          }};
}

}  // namespace

extern const Kernels USSFAST_TABLE;
const Kernels USSFAST_TABLE = {
    .lanes = kLanes,
    .rms_row_f32 = normalize_row<float>,
    .rms_row_f64 = normalize_row<double>,
    .rms_row_gradient = normalize_row_gradient<float>,
    .multiply_pairs = multiply_pairs,
    .overlap_add = overlap_add,
    .divide_by_weight = divide_by_weight,
    .weigh = weigh,
    .multiply_conjugate = multiply_conjugate,
    .subtract_mean = subtract_mean,
    .ffn = {block_kernel<Ffn<Float32>, FfnArgs>(), block_kernel<Ffn<Bfloat16>, FfnArgs>(),
            block_kernel<Ffn<Int8>, FfnArgs>()},
    .ffn_gradient = {block_kernel<FfnGradient<Float32>, FfnArgs>(), block_kernel<FfnGradient<Bfloat16>, FfnArgs>()},
    .conv_ffn = {block_kernel<ConvFfn<Float32>, ConvFfnArgs>(), block_kernel<ConvFfn<Bfloat16>, ConvFfnArgs>()},
    .conv_ffn_backward = {block_kernel<ConvFfnBackward<Float32>, ConvFfnArgs>(),
                          block_kernel<ConvFfnBackward<Bfloat16>, ConvFfnArgs>()},
    .gated_recurrence = {block_kernel<GatedRecurrence<Float32>, GatedRecurrenceArgs>(),
                         block_kernel<GatedRecurrence<Bfloat16>, GatedRecurrenceArgs>()},
    .gated_recurrence_backward = {block_kernel<GatedRecurrenceBackward<Float32>, GatedRecurrenceArgs>(),
                                  block_kernel<GatedRecurrenceBackward<Bfloat16>, GatedRecurrenceArgs>()},
    .band_attention = {block_kernel<BandAttention<Float32>, BandAttentionArgs>(),
                       block_kernel<BandAttention<Bfloat16>, BandAttentionArgs>()},
    .band_attention_backward = {block_kernel<BandAttentionBackward<Float32>, BandAttentionArgs>(),
                                block_kernel<BandAttentionBackward<Bfloat16>, BandAttentionArgs>()},
    .band_masks = {block_kernel<BandMasks<Float32>, BandMasksArgs>(),
                   block_kernel<BandMasks<Bfloat16>, BandMasksArgs>()},
    .band_masks_backward = {block_kernel<BandMasksBackward<Float32>, BandMasksArgs>(),
                            block_kernel<BandMasksBackward<Bfloat16>, BandMasksArgs>()},
    .band_tokens = {block_kernel<BandTokens<Float32>, BandTokensArgs>(),
                    block_kernel<BandTokens<Bfloat16>, BandTokensArgs>()},
    .band_tokens_backward = {block_kernel<BandTokensBackward<Float32>, BandTokensArgs>(),
                             block_kernel<BandTokensBackward<Bfloat16>, BandTokensArgs>()},
    .attention = block_kernel<LocoformerAttention, AttentionArgs>(),
    .attention_backward = block_kernel<LocoformerAttentionBackward, AttentionGradArgs>(),
    .cross_attention = block_kernel<CrossAttention, CrossAttentionArgs>(),
    .cross_attention_backward = block_kernel<CrossAttentionBackward, CrossAttentionGradArgs>(),
    .band_moments = band_moments,
    .band_split = block_kernel<BandSplit, BandSplitArgs>(),
    .band_merge = block_kernel<BandMerge, BandMergeArgs>(),
    .resample = block_kernel<Resample, ResampleArgs>(),
    .trunk_frame = block_kernel<TrunkFrame, TrunkArgs>(),
    .trunk_features = {block_kernel<TrunkFeatures<Float32>, TrunkArgs>(), block_kernel<TrunkFeatures<Bfloat16>, TrunkArgs>()},
    .trunk_encode = {block_kernel<TrunkEncode<Float32>, TrunkArgs>(), block_kernel<TrunkEncode<Bfloat16>, TrunkArgs>()},
    .trunk_layers = {block_kernel<TrunkLayers<Float32>, TrunkArgs>(), block_kernel<TrunkLayers<Bfloat16>, TrunkArgs>()},
    .trunk_decode = {block_kernel<TrunkDecode<Float32>, TrunkArgs>(), block_kernel<TrunkDecode<Bfloat16>, TrunkArgs>()},
    .trunk_masks = block_kernel<TrunkMasks, TrunkArgs>(),
    .trunk_overlap = block_kernel<TrunkOverlap, TrunkArgs>(),
};

}  // namespace ussfast
