"""Files here and elsewhere: local paths, and addresses such as s3://bucket/key through fsspec."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ussfast.audio.temporary import temporary_name
from ussfast.errors import AudioError, InputError, OutputError, UssfastError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Of what a file system says about a file, what changes when the file does.
_FACTS = (
    "size", "mtime", "ETag", "etag", "LastModified", "last_modified", "updated", "created", "generation", "md5Hash",
)  # fmt: skip
# A file there appears under its name once it is complete; anywhere else it is put under another name first.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az", "adl", "oss", "memory"}


def is_address(text: str) -> bool:
    return _ADDRESS.match(text) is not None


class Place:
    """A file or folder by its path or address, and its file system.

    Attributes: text (as it was given, local paths absolute), path (for the file system), local.

    Raises:
        InputError: an address that nothing is installed for, or of no known kind.
    """

    def __init__(self, text: str):
        from fsspec.core import url_to_fs

        # fsspec takes "::" in a local path for a chain of file systems.
        address = is_address(text)
        self.path: str
        try:
            self.fs, self.path = url_to_fs(text) if address else (_local(), os.path.abspath(text))
        except ImportError as error:
            kind = text.partition("://")[0]
            package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
            what = f"pip install {package[kind]}" if kind in package else error
            raise InputError(f"{text}: {kind}:// needs a package that is not installed here: {what}") from error
        except Exception as error:
            raise InputError(f"{text}: is no address that can be read: {reason(error)}") from error
        self.local = "file" in _protocols(self.fs)
        self.text = self.path if self.local else text.rstrip("/")

    def within(self, path: str) -> str:
        """The path of this file system as a text that leads there."""
        return path if self.local else str(self.fs.unstrip_protocol(path))

    def child(self, *parts: str) -> str:
        """The text of a place below."""
        return "/".join((self.text.rstrip("/") or "", *(part for part in parts if part)))

    def facts(self) -> dict[str, str]:
        """What tells this file from others, and from itself before it changed; AudioError where there is none."""
        try:
            found = self.fs.info(self.path)
        except FileNotFoundError:
            raise AudioError(f"{self.text}: no such file") from None
        except Exception as error:
            raise AudioError(f"{self.text}: could not be read: {reason(error)}") from error
        if found.get("type") == "directory":
            raise AudioError(f"{self.text}: is a folder, not an audio file")
        return {name: str(found[name]) for name in _FACTS if found.get(name) is not None}

    def fetch(self, to: str) -> None:
        """Copies the file to a local path. Raises AudioError."""
        try:
            self.fs.get_file(self.path, to)
        except FileNotFoundError:
            raise AudioError(f"{self.text}: no such file") from None
        except Exception as error:
            raise AudioError(f"{self.text}: could not be fetched: {reason(error)}") from error

    def put(self, local: str) -> None:
        """Copies a local file to here, so that it appears complete or not at all. Raises OutputError."""
        try:
            self.fs.makedirs(self.fs._parent(self.path), exist_ok=True)
            if _OBJECT_STORES & _protocols(self.fs):
                self.fs.put_file(local, self.path)
                return
            hidden = str(temporary_name(Path(self.path)))
            try:
                self.fs.put_file(local, hidden)
                os.replace(hidden, self.path) if self.local else self.fs.mv(hidden, self.path)
            except BaseException:
                if self.fs.exists(hidden):
                    self.fs.rm_file(hidden)
                raise
        except UssfastError:
            raise
        except Exception as error:
            raise OutputError(f"{self.text}: could not be written: {reason(error)}") from error

    def read(self) -> bytes | None:
        """The content of a small file; None where there is none that can be read."""
        try:
            content = self.fs.cat_file(self.path)
        except Exception:
            return None
        return bytes(content)

    def size(self) -> int | None:
        """In bytes, None where there is no such file."""
        try:
            return int(self.fs.info(self.path)["size"])
        except Exception:
            return None


def reason(error: BaseException) -> str:
    """One line about what a file system raised."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _local() -> Any:
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem()


def _protocols(fs: Any) -> set[str]:
    names: Iterable[str] = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return set(names)
