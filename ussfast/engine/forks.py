"""Processes that were forked from one that had computed.

The threads that PyTorch computes with (those of libgomp) stay behind in the parent, and the first computation of the
child would wait for them for ever: it works on one thread. A GPU is lost to it, as is what other threads had locked.
"""

import os
import weakref
from typing import Protocol

import torch

from ussfast.errors import DeviceError


class Forked(Protocol):
    def after_fork(self) -> None:
        """Replaces locks, and what waits for other threads."""


_known: "weakref.WeakSet[Forked]" = weakref.WeakSet()
_computed = _alone = _gpu_used = _without_gpu = False


def compute(device: torch.device, threads: int | None = None) -> int | None:
    """To be called before anything is computed on `device`; the number of threads that it may have, None for any.

    Raises:
        DeviceError: a GPU that the parent of this process had begun to use.
    """
    global _computed
    _computed = True
    if _without_gpu and device.type == "cuda":
        raise DeviceError(
            "a GPU cannot be used in a process that was forked from one that uses it: start processes by 'spawn' "
            "(multiprocessing.get_context('spawn'))"
        )
    return 1 if _alone else threads


def remember(engine: Forked) -> None:
    """What is to be repaired in a child."""
    _known.add(engine)


def _before() -> None:
    global _gpu_used
    _gpu_used = torch.cuda.is_initialized()


def _child() -> None:
    global _alone, _without_gpu
    _without_gpu = _without_gpu or _gpu_used
    if not _computed:
        return
    _alone = True
    torch.set_num_threads(1)
    for engine in list(_known):
        engine.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_child)
