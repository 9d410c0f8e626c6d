// All kernels, and their table under the name that the including file has set: USSFAST_TABLE.
#include "ffn.h"
#include "locoformer_attention.h"
#include "spectrum.h"

namespace ussfast {

extern const Kernels USSFAST_TABLE;
const Kernels USSFAST_TABLE = {
    .lanes = kLanes,
    .rms_row_f32 = normalize_row<float>,
    .rms_row_f64 = normalize_row<double>,
    .multiply_pairs = multiply_pairs,
    .overlap_add = overlap_add,
    .divide_by_weight = divide_by_weight,
    .ffn = {{ffn_blocks<Float32>, ffn_scratch<Float32>, ffn_run<Float32>},
            {ffn_blocks<Bfloat16>, ffn_scratch<Bfloat16>, ffn_run<Bfloat16>},
            {ffn_blocks<Int8>, ffn_scratch<Int8>, ffn_run<Int8>}},
    .locoformer_attention_scratch = locoformer_attention_scratch,
    .locoformer_attention = locoformer_attention_run,
};

}  // namespace ussfast
