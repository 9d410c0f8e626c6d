"""Memory that runs out."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ussfast.errors import OutOfMemoryError


@contextmanager
def out_of_memory(device: torch.device) -> Iterator[None]:
    """Turns every way in which memory runs out into OutOfMemoryError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _error(device) from error
    except RuntimeError as error:
        # The CPU allocator has no exception type of its own.
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise _error(device) from error
        raise


def _error(device: torch.device) -> OutOfMemoryError:
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
    return OutOfMemoryError(f"out of memory on {device}: use a shorter segment")
