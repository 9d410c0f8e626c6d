"""Files that appear under their name only once they are complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ussfast.audio.temporary import sweep, temporary_name
from ussfast.errors import OutputError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; leaving the `with` renames it onto `path`.

    The temporary file exists already, empty, with the suffix of `path`. If the body raises, it is removed
    and `path` is left as it was.

    Raises:
        OutputError: the folder is missing or cannot be written to, `path` is a folder or a device, the disk
            is full or another write failed. Other exceptions of the body pass through.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        remove(temporary)
        # An OSError about some other file is the body's own; safetensors wraps what the system said in text.
        ours = isinstance(error, OSError) and error.filename in (None, str(temporary), temporary)
        if ours or (isinstance(error, Exception) and "I/O error" in str(error)):
            raise write_failure(path, error) from error
        raise


def temporary_beside(path: Path) -> Path:
    """An empty hidden file next to `path`, with its suffix; OutputError if `path` cannot be written.

    What dead processes left in that folder is removed.
    """
    # os.path, since Path's own raise for names that are too long or hold a NUL.
    if os.path.isdir(path):
        raise OutputError(f"{path}: is a folder, not a file that could be written")
    if os.path.exists(path) and not os.path.isfile(path):  # renaming onto /dev/null would remove the device
        raise OutputError(f"{path}: is not a regular file")
    if not os.path.isdir(path.parent):
        what = "is not a folder" if os.path.exists(path.parent) else "does not exist"
        raise OutputError(f"{path}: cannot be written: {path.parent} {what}")
    sweep(path.parent)
    temporary = temporary_name(path)
    try:
        with contextlib.suppress(FileNotFoundError):  # a name that cannot be fails here, not after the work
            os.lstat(path)
        # mkstemp would make a file that only its owner can read.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: cannot be written: {path.parent}: {reason}") from error
    return temporary


def write_failure(path: Path, error: BaseException) -> OutputError:
    """The error for `path` that says what the system said, and the space left."""
    reason = getattr(error, "strerror", None) or str(error)
    space = ""
    with contextlib.suppress(OSError):
        space = f" ({free_bytes(path) / 1e6:.1f} MB free in {path.parent})"
    return OutputError(f"{path}: could not be written: {reason}{space}")


def free_bytes(path: Path) -> int:
    """Space left where `path` is to be written, in bytes."""
    return shutil.disk_usage(path.parent).free


def remove(path: Path) -> None:
    """Removes a temporary file, if it is still there."""
    with contextlib.suppress(OSError):
        path.unlink()
