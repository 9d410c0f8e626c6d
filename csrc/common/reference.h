// The way back to the reference of an op, in plain PyTorch.
#pragma once

#include <type_traits>

#include <ATen/core/dispatch/Dispatcher.h>

namespace ussfast {

// Runs the op's reference. It is registered for every backend that has no kernel of its own, so it is reached through
// the key of one that cannot exist next to ours. For what no kernel takes: float64, and some sizes.
template <class Return, class... Args>
Return reference(const char* op, Return (*)(Args...), std::type_identity_t<Args>... args) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(op, "")
      .template typed<Return(Args...)>()
      .redispatch(c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), args...);
}

}  // namespace ussfast
