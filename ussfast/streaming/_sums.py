"""The dot products of sample-rate conversion: in C++ where the extension is loaded, else in plain PyTorch."""

from collections.abc import Callable

import torch
from torch import Tensor

from ussfast._ext import cpu_isa

# Products that the reference holds at once.
_PRODUCTS = 1 << 20


def weighted_sums() -> Callable[[Tensor, Tensor, int, int, int, int, int], Tensor]:
    """The function that does it, with the arguments of `reference`."""
    return reference if cpu_isa() is None else torch.ops.ussfast._resample.default


def reference(x: Tensor, table: Tensor, start: int, phase: int, up: int, down: int, count: int) -> Tensor:
    """Output samples 0 ... count - 1 of a conversion; each is computed alike, whichever are computed with it.

    Args:
        x: [channels, samples] float32 on the CPU.
        table: [rows + 1, taps] float32, contiguous, taps a multiple of 16, see `_filters.Filter`.
        start, phase, up, down: output sample i lies (time % up) / up behind input sample time // up, where
            time = phase + i * down and 0 <= phase < up; its first tap is for x[start + time // up].
    Returns:
        [channels, count] float32.
    """
    rows, taps = table.shape[0] - 1, table.shape[1]
    out = x.new_empty(x.shape[0], count)
    if not count:  # x may then be shorter than one window
        return out
    windows = x.unfold(1, taps, 1)
    for some in torch.arange(count).split(max(1, _PRODUCTS // (taps * x.shape[0]))):
        time = phase + some * down
        place = time % up * rows
        row, way = place // up, (place % up).to(x.dtype) / up
        weights = table[row] + way[:, None] * (table[row + 1] - table[row])
        out[:, some] = (windows[:, start + time // up] * weights).sum(-1)
    return out
