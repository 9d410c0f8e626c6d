"""How many threads of the CPU may be asked for. Nothing here needs torch."""

import os
from typing import Any

from ussfast.errors import InputError
from ussfast.values import shown, whole


def check_threads(threads: Any) -> int:
    """The number of threads; InputError for no whole number, less than one, and more than the machine has cores: they
    would only be slower, and OpenMP ends the process where the system gives it no more."""
    cores = os.cpu_count() or 1
    try:
        return whole(threads, "threads", 1, cores)
    except InputError:
        raise InputError(
            f"threads must be a whole number from 1 to at most the {cores} cores of this machine, got {shown(threads)}"
        ) from None
