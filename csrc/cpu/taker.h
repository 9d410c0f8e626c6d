// Lists of tensors that the step of the causal model takes: weights, state, work.
#pragma once

#include <type_traits>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

namespace ussfast {

// Takes what a list holds in its order, each with the size it must have.
class Taker {
 public:
  Taker(at::TensorList list, const char* what) : list_(list), what_(what) {}

  template <typename T = float>
  T* next(int64_t count) {
    TORCH_CHECK(at_ < list_.size(), "too few tensors of ", what_);
    const at::Tensor& tensor = list_[at_++];
    TORCH_CHECK(tensor.numel() == count && tensor.is_contiguous() && tensor.device().is_cpu() &&
                    tensor.scalar_type() == c10::CppTypeToScalarType<std::remove_const_t<T>>::value,
                "tensor ", at_ - 1, " of ", what_, " must have ", count, " adjacent values, got ",
                tensor.scalar_type(), " ", tensor.sizes());
    return static_cast<T*>(tensor.data_ptr());
  }
  const at::Tensor& peek() const {
    TORCH_CHECK(at_ < list_.size(), "too few tensors of ", what_);
    return list_[at_];
  }
  void finish() const { TORCH_CHECK(at_ == list_.size(), "too many tensors of ", what_); }

 private:
  at::TensorList list_;
  const char* what_;
  size_t at_ = 0;
};

}  // namespace ussfast
