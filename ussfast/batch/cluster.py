"""Ray for the time of a run: one of our own on this machine, or a cluster that is there."""

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ussfast.errors import InputError, UssfastError

STORE_BYTES = 256 << 20  # for objects of a Ray of our own: lists of files, and a model's weights
_PREFIX = "ussfast-ray-"
_LONGEST_FOLDER = 40  # characters: Ray's sockets lie below, and their names are 107 long at most


@dataclass(frozen=True)
class Machines:
    """Cores and GPUs of all machines together."""

    cpus: int
    gpus: int


@contextlib.contextmanager
def started(address: str | None, cpus: int, store_bytes: int = STORE_BYTES) -> Iterator[Machines]:
    """Ray during the body; nothing of a Ray of our own is left behind it.

    Where Ray runs in this process already, that is taken, and stays.

    Args:
        address: of a cluster, "auto" for the one that this machine is part of; None for a Ray of our own.
        cpus: of a Ray of our own.
    Raises:
        InputError: Ray is not installed. UssfastError: it does not start, or there is no cluster at that address.
    """
    ray = _imported()
    if ray.is_initialized():
        yield _machines(ray)
        return
    ends, folder, lock = signal.getsignal(signal.SIGTERM), None, None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    if address is None:
        folder, lock = own_folder()
        options |= {"num_cpus": cpus, "_temp_dir": folder, "object_store_memory": store_bytes, "address": "local"}
    else:
        options |= {"address": address}
        del options["include_dashboard"]
    try:
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = "" if address is None else f" at {address}"
            raise UssfastError(f"no Ray{where}: {error}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, ends)  # Ray has one of its own, which does not unwind
        _hush(ray)
        yield _machines(ray)
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
        if folder is not None and lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def own_folder() -> tuple[str, int]:
    """A folder for Ray's sockets and logs, and what keeps it: the descriptor of a lock, which the system lets go of
    however this process ends. Those that nothing keeps any more are removed."""
    root = tempfile.gettempdir()
    root = root if len(root) <= _LONGEST_FOLDER else "/tmp"
    for old in Path(root).glob(f"{_PREFIX}*/lock"):
        with contextlib.suppress(OSError):
            lock = os.open(old, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old.parent, ignore_errors=True)
            finally:
                os.close(lock)
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=root)
    new = Path(folder, "new")  # under its name once it is locked
    lock = os.open(new, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(Path(folder, "lock"))
    return folder, lock


def _imported() -> Any:
    """Ray with nothing to say: no statistics sent, no progress of its own."""
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_ENABLE_AUTO_CONNECT": "0",
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            import ray.data
    except ImportError as error:
        raise InputError(f"ussfast batch needs Ray: pip install 'ussfast[ray]' ({error})") from error
    _hush(ray)
    return ray


def _hush(ray: Any) -> None:
    warnings.filterwarnings("ignore", module=r"ray\.")
    for name in ("ray", "ray.data", "ray.serve"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.verbose_progress = False


def _machines(ray: Any) -> Machines:
    there = ray.cluster_resources()
    return Machines(int(there.get("CPU", 0)), int(there.get("GPU", 0)))
