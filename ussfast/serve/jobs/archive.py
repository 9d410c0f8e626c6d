"""Files as one zip, made while it is sent."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PIECE = 1 << 20  # bytes


class _Sent(io.RawIOBase):
    """What was written since the last `taken`; it cannot be gone back in."""

    def __init__(self) -> None:
        self._held, self._at = bytearray(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._held += data
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def taken(self) -> bytes:
        data, self._held = bytes(self._held), bytearray()
        return data


def archive(paths: Sequence[Path]) -> Iterator[bytes]:
    """A zip of these files by their bare names, as they are: audio hardly gets smaller."""
    sent = _Sent()
    with zipfile.ZipFile(sent, "w", zipfile.ZIP_STORED, allowZip64=True) as made:
        for path in paths:
            with open(path, "rb") as file, made.open(zipfile.ZipInfo.from_file(path, path.name), "w") as into:
                while data := file.read(PIECE):
                    into.write(data)
                    yield sent.taken()
    yield sent.taken()
