"""Running sums and maxima along frames whose number is not known yet, as while a graph for any number is made.

A loop would be as long as the example. These double the distance that they look back until it is that of all frames:
plain products and slices, which every runtime has (Hillis & Steele, "Data parallel algorithms", 1986).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

MOST = 1 << 16  # frames where no bound is given


def unknown(size: int | torch.SymInt) -> bool:
    return isinstance(size, torch.SymInt)


def carry_on(keep: Tensor, add: Tensor, before: Tensor) -> Tensor:
    """h[t] = keep[t] h[t - 1] + add[t] along dim 1, h[-1] = before; all [batch, frames, ...]."""
    frames = keep.shape[1]
    # What was before is a row of its own, which keeps nothing.
    add = torch.cat((before[:, None], add), 1)
    keep = F.pad(keep, (0, 0) * (keep.dim() - 2) + (1, 0))
    for distance in _distances(frames):
        add = add + keep * _later(add, distance, 0.0)
        keep = keep * _later(keep, distance, 0.0)
    return add[:, 1:]


def running_max(x: Tensor) -> Tensor:
    """The maximum so far along dim 1 of [batch, frames]."""
    if not unknown(x.shape[1]):
        return x if x.shape[1] == 1 else torch.cummax(x, 1).values
    for distance in _distances(x.shape[1]):
        x = torch.maximum(x, _later(x, distance, -1e30))
    return x


def _later(x: Tensor, distance: int, fill: float) -> Tensor:
    """x, so many frames later."""
    return F.pad(x, (0, 0) * (x.dim() - 2) + (distance, 0), value=fill)[:, : x.shape[1]]


def _distances(frames: int | torch.SymInt) -> Iterator[int]:
    distance, most = 1, frames
    if isinstance(frames, torch.SymInt):
        node = frames.node
        upper = node.shape_env.bound_sympy(node.expr).upper
        most = min(MOST, int(upper)) if upper.is_Integer else MOST
    while distance <= most:
        yield distance
        distance *= 2
