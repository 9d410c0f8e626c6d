"""How many threads of the CPU may be asked for. Nothing here needs torch."""

import operator
import os
from typing import Any

from ussfast.errors import InputError


def check_threads(threads: Any) -> int:
    """The number of threads; InputError for no whole number, less than one, and more than the machine has cores: they
    would only be slower, and OpenMP ends the process where the system gives it no more."""
    cores = os.cpu_count() or 1
    try:
        count = operator.index(threads)
    except TypeError:
        raise InputError(f"threads must be a whole number, not {type(threads).__name__}") from None
    if not 1 <= count <= cores:
        raise InputError(f"threads must be at least 1, and at most the {cores} cores of this machine, not {count}")
    return count
