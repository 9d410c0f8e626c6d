"""How Triton launchers start their kernels: which tile, tuned or default, and how all of it compiles without a GPU.

A launcher prepares tensors and describes each kernel call as a `Call`; `launch` runs it. Inside `recording` calls are
only written down, with the tile for some capability: ussfast.ops.aot compiles exactly what a device of that kind would
run, from tensors on the "meta" device.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton import _tuning
from ussfast.ops._triton._call import Call

# Capability whose default tiles the interpreter uses.
_INTERPRETED = 90


class _Record(threading.local):
    calls: list[Call] | None = None
    capability: int = 0


_record = _Record()


@contextmanager
def recording(capability: int) -> Iterator[list[Call]]:
    """Inside the `with`, launchers on this thread run nothing: their calls for such a device are in the list."""
    before = _record.calls, _record.capability
    _record.calls, _record.capability = [], capability
    try:
        yield _record.calls
    finally:
        _record.calls, _record.capability = before


def capability(x: Tensor) -> int:
    """Of the device that computes on x: 80, 90, 100, ..."""
    if _record.calls is not None:
        return _record.capability
    if x.device.type != "cuda":
        return _INTERPRETED
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def launch(call: Call, device: torch.device) -> None:
    """Runs the call with the tile that was tuned for this device, or with its default."""
    if _record.calls is not None:
        _record.calls.append(call)
    elif device.type != "cuda":
        call.run(call.tiles[0])
    else:
        with torch.cuda.device(device):
            call.run(_tuning.choose(call, device))


def wide(dtype: torch.dtype) -> Any:
    """The type that kernels compute in for tensors of this dtype, as Triton names it."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def dot_types(dtype: torch.dtype, precision: str = "float32") -> tuple[Any, str]:
    """Type of both factors of matrix products, and input_precision for tl.dot.

    Products of float32 are three products of TF32 parts each: as exact as float32 to a unit or two in the last place,
    on the matrix units. One product of TF32 only where the user has allowed it to PyTorch as well.
    """
    if precision == "bfloat16" or dtype == torch.bfloat16:
        return tl.bfloat16, "ieee"
    if dtype == torch.float16:
        return tl.float16, "ieee"
    return tl.float32, "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"
