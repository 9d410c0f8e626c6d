"""Audio in a file that the caller holds open: an upload, a response of a server, bytes in memory."""

import contextlib
import inspect
import os
import re
import tempfile
import weakref
from pathlib import Path
from typing import Any

from ussfast.errors import AudioError, OutputError

PIECE_BYTES = 1 << 20
LONGEST_STEM, LONGEST_SUFFIX = 100, 10  # characters


def is_file(audio: Any) -> bool:
    """Whether this is a path or an open file, not samples."""
    return isinstance(audio, (str, os.PathLike)) or (hasattr(audio, "read") and not hasattr(audio, "__array__"))


def given_file(file: Any) -> "Path | HeldFile":
    """A path as it is, an open file as a copy on disk; AudioError for anything else."""
    if isinstance(file, HeldFile):
        return file
    if isinstance(file, (str, os.PathLike)):
        path = os.fsdecode(file)
        with contextlib.suppress(UnicodeError):
            if b"\0" not in os.fsencode(path):
                return Path(path)
        raise AudioError(f"{ascii(path)}: could not be opened: no file can have this name")
    if hasattr(file, "read"):
        return HeldFile(file)
    raise AudioError(f"a path or a file opened in binary mode is needed, not {type(file).__name__}")


class HeldFile(os.PathLike[str]):
    """What an open file holds from where it stands to its end, copied to a temporary file, which goes with this object.

    Decoders need a file that they can open more than once and seek in. The caller's is neither closed nor, where it can
    seek, left at another place.

    Attributes: name (to show), stem and suffix (to name outputs by: of the file's own name if it has one, else "audio"
        and none).

    Args:
        file: anything with a `read` that returns bytes; it need not seek.
    Raises:
        AudioError: it is a text file, closed, or cannot be read.
        OutputError: no room for the copy.
    """

    def __init__(self, file: Any):
        own = getattr(file, "name", None)
        own = os.fsdecode(own) if isinstance(own, (str, bytes)) else ""
        self.suffix = re.sub(r"[^\w.]+", "", Path(own).suffix)[:LONGEST_SUFFIX]
        self.stem = re.sub(r"[^\w.+-]+", "_", Path(own).stem)[:LONGEST_STEM].strip(".") or "audio"
        self.name = " ".join(Path(own).name.split()) or "audio"
        start = _position(file)
        try:
            descriptor, self._copy = tempfile.mkstemp(prefix="ussfast-")
            self.remove = weakref.finalize(self, _remove, self._copy, os.getpid())  # the copy; again does nothing
            size = self._fill(descriptor, file)
        except OSError as error:
            where = tempfile.gettempdir()
            raise OutputError(f"{self.name}: could not be copied to {where}: {error.strerror or error}") from error
        finally:
            if start is not None:
                with contextlib.suppress(Exception):
                    file.seek(start)
        if not size and start:
            raise AudioError(f"{self.name}: nothing after its position, byte {start}: seek(0) first")

    def _fill(self, descriptor: int, file: Any) -> int:
        """The number of bytes; if there is an error, the copy is gone."""
        try:
            with os.fdopen(descriptor, "wb") as copy:
                while data := self._read(file):
                    copy.write(data)
                return copy.tell()
        except BaseException:
            self.remove()
            raise

    def _read(self, file: Any) -> bytes:
        try:
            data = file.read(PIECE_BYTES)
        except Exception as error:  # whatever a caller's class or a network raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise AudioError(f"{self.name}: could not be read: {reason}") from error
        if isinstance(data, (bytes, bytearray, memoryview)):
            return bytes(data)
        if inspect.iscoroutine(data):
            data.close()
        what = "text" if isinstance(data, str) else type(data).__name__
        raise AudioError(f"{self.name}: its read() gives {what}, not bytes: pass a file opened in binary mode")

    def __fspath__(self) -> str:
        return self._copy

    def __str__(self) -> str:
        return self.name

    def resolve(self) -> Path:
        return Path(self._copy).resolve()


def _position(file: Any) -> int | None:
    try:
        return int(file.tell())
    except Exception:
        return None  # a pipe, or an object that is only read


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:  # not a child, when it ends
        with contextlib.suppress(OSError):
            os.unlink(path)
