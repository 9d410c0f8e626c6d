#include <tuple>

#include <torch/library.h>

#include "residual.h"

namespace ussfast {
namespace {

using at::Tensor;
using Call = ResidualCall<BandAttentionArgs>;

constexpr const char* kName = "band_attention";

Tensor band_attention(const Tensor& x, const Tensor& norm, const Tensor& qkv, const Tensor& out, int64_t heads, double eps,
                      c10::string_view precision) {
  if (x.scalar_type() == at::kDouble)
    return reference("ussfast::band_attention", &band_attention, x, norm, qkv, out, heads, eps, precision);
  Call call(kName, x, norm, qkv, nullptr, out, heads, eps, precision);
  auto y = result(call.x.sizes());
  if (!call.empty()) {
    call.pack(false);
    call.args.y = y.mutable_data_ptr<float>();
    run_blocks(kernels().band_attention[int(call.precision)], call.args);
  }
  return y.to(x.scalar_type());
}

// Of x, norm, qkv, out.
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& x, const Tensor& norm,
                                                    const Tensor& qkv, const Tensor& out, int64_t heads, double eps,
                                                    c10::string_view precision) {
  Call call(kName, x, norm, qkv, nullptr, out, heads, eps, precision);
  const auto [of_x, of_norm, of_qkv, of_bias, of_out] =
      call.run_backward(kName, kernels().band_attention_backward[int(call.precision)], call.args.batch * call.args.frames,
                        grad);
  return {of_x, of_norm, of_qkv, of_out};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def(
      "_band_attention_backward(Tensor grad, Tensor x, Tensor norm, Tensor qkv, Tensor out, int heads, float eps, "
      "str precision) -> (Tensor, Tensor, Tensor, Tensor)",
      &backward);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("band_attention", &band_attention); }

}  // namespace ussfast
