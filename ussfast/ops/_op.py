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
# arguments' places, or None where the kernel has no backward pass for such arguments. Where the result is several
# tensors, so is its gradient; None stands for zeros. Filled when kernels are loaded.
GRADIENTS: dict[str, Callable[..., tuple[Tensor | None, ...] | None]] = {}


@dataclass(frozen=True)
class Training:
    """Kernels with which an op is trained on the CPU.

    takes: (arguments) -> whether the kernels take them.
    forward: (arguments) -> the result, and tensors to keep for the backward pass.
    backward: (gradient of the result, arguments, kept tensors, which are needed) -> gradients in the arguments' places.
        Where the result is several tensors, so is its gradient; None stands for zeros.
    """

    takes: Callable[[tuple[Any, ...]], bool]
    forward: Callable[[tuple[Any, ...]], tuple[Any, tuple[Tensor, ...]]]
    backward: Callable[..., tuple[Tensor | None, ...]]


# By op. Used where gradients are recorded; second derivatives are those of the reference.
TRAINING: dict[str, Training] = {}

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
        lowering. Gives a tensor or, if the signature does, several. Must not return or mutate an argument.
    samples: (device, dtype) -> argument tuples that reach every corner: vector tails, size 1, strided input.
    train_on_reference: while gradients are recorded, calls run the reference itself unless there are kernels for the
        backward pass (GRADIENTS, TRAINING). For ops that do much: the general backward pass would compute all of it a
        second time, and torch.compile could not look inside.
    flop: operations of one call, from the same arguments. Only products of matrices count (so convolutions and
        attention do, norms and activations do not), a multiply-add as 2; rows that a kernel computes beyond the
        result's do not count, whoever computes them. None for ops without such products.
    """

    name: str
    signature: str
    reference: Callable[..., Any]
    samples: Callable[[torch.device, torch.dtype], Iterator[tuple[Any, ...]]]
    train_on_reference: bool = False
    flop: Callable[..., int] | None = None

    @property
    def overload(self):
        return getattr(torch.ops.ussfast, self.name).default

    def __call__(self, *args: Any) -> Any:
        """Runs the op: through the dispatcher, or the reference inside `use_reference()`."""
        if _choice.record is not None and not torch.compiler.is_compiling():
            return self._recorded(args, _choice.record)
        return self._run(args)

    def _run(self, args: tuple[Any, ...]) -> Any:
        if not _choice.reference and self._trains(args):
            return _Trained.apply(self, *args)
        if _choice.reference or (self.train_on_reference and torch.is_grad_enabled() and not self._has_backward(args)):
            return self.reference(*args)
        return self.overload(*args)

    def _has_backward(self, args: tuple[Any, ...]) -> bool:
        return self.name in GRADIENTS and not torch.compiler.is_compiling() and args[0].is_cuda

    def _trains(self, args: tuple[Any, ...]) -> bool:
        if self.name not in TRAINING or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        tensors = [a for a in args if torch.is_tensor(a)]
        plain = all(type(a) in (Tensor, torch.nn.Parameter) and a.device.type == "cpu" for a in tensors)
        return plain and any(a.requires_grad for a in tensors) and TRAINING[self.name].takes(args)

    def _recorded(self, args: tuple[Any, ...], calls: list[OpCall]) -> Any:
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


def _keep(ctx: Any, args: tuple[Any, ...], more: tuple[Tensor, ...] = ()) -> None:
    ctx.is_tensor = [torch.is_tensor(value) for value in args]
    ctx.constants = [None if torch.is_tensor(value) else value for value in args]
    ctx.save_for_backward(*(value for value in args if torch.is_tensor(value)), *more)


def _kept(ctx: Any) -> tuple[list[Any], tuple[Tensor, ...]]:
    """The arguments, and what else was kept."""
    saved = iter(ctx.saved_tensors)
    args = [next(saved) if t else value for t, value in zip(ctx.is_tensor, ctx.constants, strict=True)]
    return args, tuple(saved)


def _backward_of_reference(
    spec: OpSpec, args: list[Any], need: tuple[bool, ...], grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    # Recomputes the reference. view_as gives each argument a node of its own: one that was computed from
    # another must not receive that one's gradient again, and second derivatives still flow.
    twice = torch.is_grad_enabled()
    with torch.enable_grad():
        args = [a.view_as(a) if n else a for a, n in zip(args, need, strict=True)]
        wanted = [a for a, n in zip(args, need, strict=True) if n]
        out = spec.reference(*args)
        # A result that nothing was derived from has no gradient.
        pairs = zip((out,) if torch.is_tensor(out) else out, grads, strict=True)
        used = [(o, g) for o, g in pairs if g is not None]
        outs, known = [o for o, _ in used], [g for _, g in used]
        found = iter(torch.autograd.grad(outs, wanted, known, create_graph=twice, materialize_grads=True))
    return tuple(next(found) if n else None for n in need)


class _Trained(torch.autograd.Function):
    """An op by its kernels for training: (spec, arguments) -> result."""

    @staticmethod
    def forward(ctx: Any, spec: OpSpec, *args: Any) -> Any:
        out, more = TRAINING[spec.name].forward(args)
        ctx.spec = spec
        ctx.set_materialize_grads(False)
        _keep(ctx, args, more)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        args, more = _kept(ctx)
        need = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *_backward_of_reference(ctx.spec, args, need, grads)
        found = TRAINING[ctx.spec.name].backward(grads if len(grads) > 1 else grads[0], args, more, need)
        return None, *(g if n else None for g, n in zip(found, need, strict=True))


def define(spec: OpSpec) -> OpSpec:
    """Registers the op with its reference as kernel for every device; faster kernels come on top of it."""

    def kernel(*args):
        out = spec.reference(*args)
        return out.contiguous() if torch.is_tensor(out) else tuple(o.contiguous() for o in out)

    def keep(ctx, inputs, output):
        _keep(ctx, inputs)

    def backward(ctx, *grads):
        args, _ = _kept(ctx)
        known = [g for g in grads if g is not None]
        if known and known[0].is_cuda and not torch.is_grad_enabled() and spec.name in GRADIENTS:
            fast = GRADIENTS[spec.name](grads if len(grads) > 1 else grads[0], args, ctx.needs_input_grad)
            if fast is not None:
                return fast
        return _backward_of_reference(spec, args, ctx.needs_input_grad, grads)

    name = f"ussfast::{spec.name}"
    LIB.define(spec.name + spec.signature, tags=(torch.Tag.pt2_compliant_tag,))
    LIB.impl(spec.name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(name, kernel, lib=LIB)
    torch.library.register_autograd(name, backward, setup_context=keep, lib=LIB)
    OPS[spec.name] = spec
    return spec
