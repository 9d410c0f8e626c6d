"""One definition per op: schema, reference, fake kernel and gradient all come from one OpSpec."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ussfast.errors import InputError

LIB = torch.library.Library("ussfast", "DEF")
OPS: dict[str, "OpSpec"] = {}
# Backward passes of CUDA kernels by op: (gradient of the result, arguments, which are needed) -> gradients in the
# arguments' places, or None where the kernel has no backward pass for such arguments. Filled when kernels are loaded.
GRADIENTS: dict[str, Callable[..., tuple[Tensor | None, ...] | None]] = {}

_IMPLEMENTATIONS = ("native", "reference")
IMPL = os.environ.get("USSFAST_IMPL") or "native"
if IMPL not in _IMPLEMENTATIONS:
    raise InputError(f"USSFAST_IMPL={IMPL}: expected one of {', '.join(_IMPLEMENTATIONS)}")


@dataclass(frozen=True)
class OpCall:
    """One recorded call: seconds it took, and its operations by the op's `flop` (0 where that is not set)."""

    name: str
    seconds: float
    flop: int


class _Choice(threading.local):
    """Per thread, so that a reference run in one does not slow down native runs in others."""

    reference = False
    record: list[OpCall] | None = None


_choice = _Choice()


@dataclass(frozen=True)
class OpSpec:
    """What there is to know about one op.

    name: of the op, its file, its C++ function, its Triton launcher and its bench.
    signature: schema after the name. No default values in here: the dispatcher drops arguments that equal
        a default, and Python kernels then miss one. Defaults live in the public function.
    reference: plain PyTorch on tensors of any strides: truth, fallback, fake kernel, gradient, export
        lowering. Must not return or mutate an argument.
    samples: (device, dtype) -> argument tuples that reach every corner: vector tails, size 1, strided input.
    train_on_reference: while gradients are recorded, calls run the reference itself unless there is a kernel for the
        backward pass. For ops that do much: the general backward pass would compute all of it a second time, and
        torch.compile could not look inside.
    flop: operations of one call, from the same arguments. Only products of matrices count (so convolutions and
        attention do, norms and activations do not), a multiply-add as 2; rows that a kernel computes beyond the
        result's do not count, whoever computes them. None for ops without such products.
    """

    name: str
    signature: str
    reference: Callable[..., Tensor]
    samples: Callable[[torch.device, torch.dtype], Iterator[tuple[Any, ...]]]
    train_on_reference: bool = False
    flop: Callable[..., int] | None = None

    @property
    def overload(self):
        return getattr(torch.ops.ussfast, self.name).default

    def __call__(self, *args: Any) -> Tensor:
        """Runs the op: through the dispatcher, or the reference inside `use_reference()`."""
        if _choice.record is not None and not torch.compiler.is_compiling():
            return self._recorded(args, _choice.record)
        return self._run(args)

    def _run(self, args: tuple[Any, ...]) -> Tensor:
        if _choice.reference or (self.train_on_reference and torch.is_grad_enabled() and not self._has_backward(args)):
            return self.reference(*args)
        return self.overload(*args)

    def _has_backward(self, args: tuple[Any, ...]) -> bool:
        return self.name in GRADIENTS and not torch.compiler.is_compiling() and args[0].is_cuda

    def _recorded(self, args: tuple[Any, ...], calls: list[OpCall]) -> Tensor:
        on_gpu = any(torch.is_tensor(value) and value.is_cuda for value in args)
        _choice.record = None  # ops inside of this one are part of it
        try:
            if on_gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            out = self._run(args)
            if on_gpu:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        finally:
            _choice.record = calls
        calls.append(OpCall(self.name, seconds, self.flop(*args) if self.flop else 0))
        return out


def uses_reference() -> bool:
    """Whether this thread is inside `use_reference()`."""
    return _choice.reference


def records_ops() -> bool:
    """Whether this thread is inside `record_ops()`."""
    return _choice.record is not None


@contextmanager
def use_reference(on: bool = True) -> Iterator[None]:
    """Inside the `with`, this thread's calls of ussfast's op functions run the plain PyTorch reference.

    Code from torch.compile keeps the choice that held while it was compiled.
    """
    before, _choice.reference = _choice.reference, on
    try:
        yield
    finally:
        _choice.reference = before


@contextmanager
def record_ops() -> Iterator[list[OpCall]]:
    """Inside the `with`, this thread's calls of ussfast's op functions append to the list, in order.

    On a GPU each call waits for the device, so that its time is its own. Code from torch.compile is not seen.
    """
    calls: list[OpCall] = []
    before, _choice.record = _choice.record, calls
    try:
        yield calls
    finally:
        _choice.record = before


def define(spec: OpSpec) -> OpSpec:
    """Registers the op with its reference as kernel for every device; faster kernels come on top of it."""

    def kernel(*args):
        return spec.reference(*args).contiguous()

    def keep(ctx, inputs, output):
        ctx.is_tensor = [torch.is_tensor(value) for value in inputs]
        ctx.constants = [None if torch.is_tensor(value) else value for value in inputs]
        ctx.save_for_backward(*(value for value in inputs if torch.is_tensor(value)))

    def backward(ctx, grad):
        # Recomputes the reference. view_as gives each argument a node of its own: one that was computed from
        # another must not receive that one's gradient again, and second derivatives still flow.
        saved, need, twice = iter(ctx.saved_tensors), ctx.needs_input_grad, torch.is_grad_enabled()
        args = [next(saved) if t else value for t, value in zip(ctx.is_tensor, ctx.constants, strict=True)]
        if grad.is_cuda and not twice and spec.name in GRADIENTS:
            fast = GRADIENTS[spec.name](grad, args, need)
            if fast is not None:
                return fast
        with torch.enable_grad():
            args = [a.view_as(a) if n else a for a, n in zip(args, need, strict=True)]
            wanted = [a for a, n in zip(args, need, strict=True) if n]
            found = iter(torch.autograd.grad(spec.reference(*args), wanted, grad, create_graph=twice))
        return tuple(next(found) if n else None for n in need)

    name = f"ussfast::{spec.name}"
    LIB.define(spec.name + spec.signature, tags=(torch.Tag.pt2_compliant_tag,))
    LIB.impl(spec.name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(name, kernel, lib=LIB)
    torch.library.register_autograd(name, backward, setup_context=keep, lib=LIB)
    OPS[spec.name] = spec
    return spec
