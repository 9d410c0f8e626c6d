"""Where bands begin, on the device, for kernels whose programs have one band each or a part of it."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def band_starts(bands: Sequence[int], device: torch.device) -> Tensor:
    """int32 [bands + 1]: first bin of each band, then the number of bins."""
    return _starts(tuple(bands), device)


def band_parts(bands: Sequence[int], most: int, device: torch.device) -> Tensor:
    """int32 [parts, 2]: band and first bin of parts of at most so many bins, none of them in two bands."""
    return _parts(tuple(bands), most, device)


# Made once: nothing may be copied to a device while a graph is recorded.
@lru_cache(maxsize=64)
def _starts(bands: tuple[int, ...], device: torch.device) -> Tensor:
    starts = [sum(bands[:k]) for k in range(len(bands) + 1)]
    return torch.tensor(starts, dtype=torch.int32, device=device)


@lru_cache(maxsize=64)
def _parts(bands: tuple[int, ...], most: int, device: torch.device) -> Tensor:
    starts = [sum(bands[:k]) for k in range(len(bands))]
    parts = [[k, starts[k] + i] for k, width in enumerate(bands) for i in range(0, width, most)]
    return torch.tensor(parts, dtype=torch.int32, device=device)
