"""A target with a fault of every kind, one per input, for the test of the harness. Its inputs are told apart by what
they draw first."""

import os
import random
import time
from pathlib import Path

from ussfast.errors import InputError

SECONDS, MIB = 3.0, 64  # a busy machine, too, has written 100 MiB by then


def prepare(folder: Path) -> None:
    pass


def one(context: None, rng: random.Random, folder: Path) -> None:
    match rng.randrange(8):
        case 0:
            pass
        case 1 | 2:
            raise InputError("no")
        case 3:
            raise KeyError("a traceback")
        case 4:
            os.abort()
        case 5:
            time.sleep(60)
        case 6:
            bytearray(b"\1" * (100 << 20))
        case 7:
            assert folder.is_file(), "a wrong result"
