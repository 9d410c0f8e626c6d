"""Weights in the order that kernels want, made once per state of the weights instead of in every call."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary, WeakIdRef


@dataclass(frozen=True)
class _Entry:
    """Weak references to the other tensors that `value` was made from, and the state that all of them were in."""

    others: tuple[WeakIdRef, ...]
    states: tuple[Hashable, ...]
    value: Any


# By the first tensor, then by `extra`. Keys are compared by identity: tensors compare element by element.
_entries: WeakIdKeyDictionary = WeakIdKeyDictionary()


def laid_out(key_tensors: tuple[Tensor, ...], make: Callable[[], Any], extra: Hashable = None) -> Any:
    """`make()`, or what it returned for these tensors before.

    What was made is kept as long as the first tensor lives, one value per `extra`, and no tensor is kept alive by it:
    `make` must not return a view of one. It is made again once any of the tensors is another object, lies at another
    address, has another dtype, shape or strides, or was changed in place, which PyTorch counts under `no_grad` as well:
    optimizers, `copy_` and `load_state_dict` are seen. Not seen are changes through `.data`, by a replayed CUDA graph,
    and of tensors created in `inference_mode`, whose changes nobody counts: call `forget` after those.

    While a CUDA graph is captured nothing is stored, since memory made there holds nothing before the graph runs. A
    graph of a training step makes its own layouts, so that replays follow the weights; one captured in
    `inference_mode` uses those that are there, and has to be captured again after weights have changed.

    Args:
        key_tensors: everything that the value depends on.
        make: lays out; takes nothing.
        extra: what else the value depends on.
    """
    capturing = key_tensors[0].is_cuda and torch.cuda.is_current_stream_capturing()
    if capturing and not torch.is_inference_mode_enabled():
        return make()
    first, *others = key_tensors
    known = _entries.get(first)
    states = tuple(map(_state, key_tensors))
    entry = known.get(extra) if known else None
    if entry and entry.states == states and all(r() is t for r, t in zip(entry.others, others, strict=True)):
        return entry.value
    value = make()
    if capturing:
        return value
    if first.is_cuda:
        # Another stream may use the value next, and would not wait for this one.
        torch.cuda.current_stream(first.device).synchronize()
    _entries.setdefault(first, {})[extra] = _Entry(tuple(map(WeakIdRef, others)), states, value)
    return value


def forget() -> None:
    """Drops everything, after changes of weights that PyTorch does not count."""
    _entries.clear()


def _state(t: Tensor) -> Hashable:
    version = None if t.is_inference() else t._version
    return version, t.data_ptr(), t.dtype, t.shape, t.stride()
