"""How fast kernels were when they were last measured on this GPU: the next build of a similar graph takes less time."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ussfast.audio.atomic import atomic_write
from ussfast.engine.backends.trt_engines import EngineKey
from ussfast.errors import OutputError

LOG = logging.getLogger("ussfast.tensorrt")


def default_path(key: EngineKey) -> Path:
    """The file for this GPU and TensorRT in USSFAST_CACHE, or ~/.cache/ussfast."""
    folder = Path(os.environ.get("USSFAST_CACHE") or Path.home() / ".cache" / "ussfast")
    return folder / f"timing-{str(key).rpartition('-')[0]}.cache"


def use(config: Any, path: Path) -> None:
    """Gives a build what the file holds; what TensorRT does not take (damaged, of another version) is left out."""
    kept = _read(path)
    cache = config.create_timing_cache(kept) if kept else None
    if cache is not None and config.set_timing_cache(cache, False):
        return
    if kept:
        LOG.warning("%s is of another GPU or TensorRT, or damaged: it is made anew", path)
    config.set_timing_cache(config.create_timing_cache(b""), False)


def keep(config: Any, path: Path) -> None:
    """Writes what a build has measured, together with what others have written meanwhile.

    Raises OutputError where the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    with _locked(path):
        mine, cache = config.get_timing_cache(), config.create_timing_cache(_read(path))
        if cache is None or not cache.combine(mine, False):  # the file is of another kind, or damaged
            cache = mine
        with atomic_write(path) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock is a file of its own, since the other is replaced."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        file = lock.open("a")
    except OSError as error:
        raise OutputError(f"{lock}: cannot be written: {error.strerror}") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
