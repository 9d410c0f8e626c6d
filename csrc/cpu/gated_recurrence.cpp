#include <array>
#include <tuple>

#include <torch/library.h>

#include "residual.h"

namespace ussfast {
namespace {

using at::Tensor;

constexpr const char* kName = "gated_recurrence";

struct RecurrenceCall : ResidualCall<GatedRecurrenceArgs> {
  Tensor state;

  RecurrenceCall(const Tensor& x, const Tensor& state_, const Tensor& norm, const Tensor& inner, const Tensor& inner_bias,
                 const Tensor& outer, double eps, c10::string_view precision)
      : ResidualCall(kName, x, norm, inner, &inner_bias, outer, 1, eps, precision) {
    TORCH_CHECK(x.size(1) > 0 && state_.sizes() == at::IntArrayRef({x.size(0), x.size(2), x.size(3)}), kName, ": state ",
                state_.sizes(), " does not fit x ", x.sizes());
    state = dense(state_);
    args.state = state.const_data_ptr<float>();
  }

  Tensor kept() const { return result({args.batch, args.groups(), args.patches(), kRecurrenceBands, args.mixed}); }

  std::tuple<Tensor, Tensor> run(const Tensor* states) {
    auto y = result(x.sizes()), last = result(state.sizes());
    if (empty()) return {y, last};
    pack(false);
    args.y = y.mutable_data_ptr<float>();
    args.last = last.mutable_data_ptr<float>();
    args.states = states == nullptr ? nullptr : states->mutable_data_ptr<float>();
    run_blocks(kernels().gated_recurrence[int(precision)], args);
    return {y, last};
  }
};

std::tuple<Tensor, Tensor> gated_recurrence(const Tensor& x, const Tensor& state, const Tensor& norm, const Tensor& inner,
                                            const Tensor& inner_bias, const Tensor& outer, double eps,
                                            c10::string_view precision) {
  if (x.scalar_type() == at::kDouble)
    return reference("ussfast::gated_recurrence", &gated_recurrence, x, state, norm, inner, inner_bias, outer, eps,
                     precision);
  const auto [y, last] = RecurrenceCall(x, state, norm, inner, inner_bias, outer, eps, precision).run(nullptr);
  return {y.to(x.scalar_type()), last.to(x.scalar_type())};
}

// Also returns the states that the backward pass needs.
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& state, const Tensor& norm, const Tensor& inner,
                                           const Tensor& inner_bias, const Tensor& outer, double eps,
                                           c10::string_view precision) {
  RecurrenceCall call(x, state, norm, inner, inner_bias, outer, eps, precision);
  const auto states = call.kept();
  const auto [y, last] = call.run(&states);
  return {y, last, states};
}

// Of x, state, norm, inner, inner_bias, outer. grad_last: of the state after x; none stands for zeros.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const std::optional<Tensor>& grad_last, const Tensor& states, const Tensor& x, const Tensor& state,
    const Tensor& norm, const Tensor& inner, const Tensor& inner_bias, const Tensor& outer, double eps,
    c10::string_view precision) {
  RecurrenceCall call(x, state, norm, inner, inner_bias, outer, eps, precision);
  auto& args = call.args;
  TORCH_CHECK((!grad_last || grad_last->sizes() == state.sizes()) && states.is_contiguous() &&
                  states.scalar_type() == at::kFloat && states.sizes() == call.kept().sizes(),
              kName, ": a gradient or what was kept does not fit x ", x.sizes());
  const Tensor of_last = grad_last ? dense(*grad_last) : Tensor();
  auto of_state = result(state.sizes());
  args.states = const_cast<float*>(states.const_data_ptr<float>());
  args.grad_last = grad_last ? of_last.const_data_ptr<float>() : nullptr;
  args.grad_state = of_state.mutable_data_ptr<float>();
  const auto [of_x, of_norm, of_inner, of_inner_bias, of_outer] = call.run_backward(
      kName, kernels().gated_recurrence_backward[int(call.precision)], args.batch * args.groups(), grad);
  return {of_x, of_state, of_norm, of_inner, of_inner_bias, of_outer};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ussfast, m) {
  m.def(
      "_gated_recurrence_forward(Tensor x, Tensor state, Tensor norm, Tensor inner, Tensor inner_bias, Tensor outer, "
      "float eps, str precision) -> (Tensor, Tensor, Tensor)",
      &forward);
  m.def(
      "_gated_recurrence_backward(Tensor grad, Tensor? grad_last, Tensor states, Tensor x, Tensor state, Tensor norm, "
      "Tensor inner, Tensor inner_bias, Tensor outer, float eps, str precision) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      &backward);
}
TORCH_LIBRARY_IMPL(ussfast, CPU, m) { m.impl("gated_recurrence", &gated_recurrence); }

}  // namespace ussfast
