"""What a chunked file's header says of its audio, and where that cannot be true."""

import io
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

# Sizes that programs write when they cannot know the length (ffmpeg, sox, arecord into a pipe).
UNKNOWN_SIZES = {0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF}
MOST_CHUNKS = 10_000  # a damaged file must not keep us for ever


@dataclass(frozen=True)
class _Layout:
    """How chunks are laid out: a header of `size` bytes read by `header` as (kind, size), the first one at `start`;
    sizes count `counted` bytes of the header too, and chunks begin at multiples of `align` from there."""

    header: str
    size: int
    start: int
    counted: int = 0
    align: int = 2


_LAYOUTS = {
    b"RIFF": _Layout("<4sI", 8, 12),
    b"RF64": _Layout("<4sI", 8, 12),
    b"RIFX": _Layout(">4sI", 8, 12),
    b"FORM": _Layout(">4sI", 8, 12),
    b"riff": _Layout("<4s12xQ", 24, 40, counted=24, align=8),  # W64, whose kinds are GUIDs
    b"caff": _Layout(">4sQ", 12, 8, align=1),
}


@dataclass(frozen=True)
class AudioBytes:
    """Where the audio of a file lies.

    present, promised: bytes of it, and what the header says; `promised` is None where it does not say.
    patches: (offset, bytes) of a header that would say how much there is, for one that says 0 although audio follows.
    """

    present: int
    promised: int | None
    patches: tuple[tuple[int, bytes], ...] = ()


def audio_bytes(file: BinaryIO) -> AudioBytes | None:
    """None where the format or the header does not say where the audio is.

    libsndfile silently shortens a truncated WAV, RF64, AIFF, W64, CAF or AU file to what is there; this tells. Of a
    recorder that lost its power, the header still says 0.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(4)
    if magic in (b".snd", b"dns."):
        order = ">" if magic == b".snd" else "<"
        head = file.read(8)
        if len(head) < 8:
            return None
        start, promised = struct.unpack(order + "II", head)
        return _told(file, None, start, promised, end, ((8, f"{order}I", 0),))
    layout = _LAYOUTS.get(magic)
    if layout is None:
        return None
    size64_at: int | None = None
    for kind, at, body, size in _chunks(file, layout, layout.start, end):
        if kind == b"ds64" and size >= 16:
            size64_at = body + 8
        if kind not in (b"data", b"SSND"):
            continue
        field, more = ((at + 4, layout.header[0] + "I"), 0)
        if magic == b"RF64" and size64_at is not None and size in (0, 0xFFFFFFFF):
            file.seek(size64_at)
            size = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
            field = size64_at, "<Q"
        elif magic == b"caff":  # an edit count of 4 bytes comes first
            field, body, more = (at + 4, ">Q"), body + 4, 4
            size = 0 if size in UNKNOWN_SIZES else size - 4
        # These two libsndfile reads to the end by itself.
        fields = () if magic in (b"FORM", b"riff") else ((*field, more),)
        return _told(file, layout, body, size, end, fields)
    return None


def _told(
    file: BinaryIO, layout: _Layout | None, start: int, promised: int, end: int, fields: Sequence[tuple[int, str, int]]
) -> AudioBytes:
    """fields: (offset, struct format, bytes that are counted besides) of what says how much there is."""
    present = max(0, end - start)
    if promised > 0 and promised not in UNKNOWN_SIZES:
        return AudioBytes(min(present, promised), promised)
    if promised > 0 or not present or (layout is not None and _only_chunks(file, layout, start, end)):
        return AudioBytes(present, None)
    patches = []
    for at, form, more in fields:
        most = (1 << 8 * struct.calcsize(form)) - 1
        patches.append((at, struct.pack(form, min(present + more, most))))
    return AudioBytes(present, None, tuple(patches))


def _only_chunks(file: BinaryIO, layout: _Layout, start: int, end: int) -> bool:
    """Whether nothing but whole chunks follows from here on to the end: then there is no audio among it."""
    reached = start
    for kind, _, body, size in _chunks(file, layout, start, end):
        reached = body + size
        if not (kind.isascii() and kind.decode("ascii").isprintable()):
            return False
    return start < end <= reached + layout.align and reached <= end


def _chunks(file: BinaryIO, layout: _Layout, start: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """(kind, where its header begins, where its body does, size of the body) of every chunk; a size may be a lie."""
    for _ in range(MOST_CHUNKS):
        if not 0 <= start <= end - layout.size:
            return
        file.seek(start)
        kind, size = struct.unpack(layout.header, file.read(layout.size))
        body, size = start + layout.size, size - layout.counted
        yield kind, start, body, size
        if size < 0:
            return
        start = body + size + -size % layout.align


class Patched(io.RawIOBase):
    """A file to read, some bytes of which are others.

    Args:
        file: it is closed with this one.
        patches: (offset, bytes).
    """

    def __init__(self, file: BinaryIO, patches: tuple[tuple[int, bytes], ...]):
        self._file, self._patches = file, patches

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        start = self._file.tell()
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        for at, new in self._patches:
            first, last = max(at, start), min(at + len(new), start + len(data))
            if first < last:
                buffer[first - start : last - start] = new[first - at : last - at]
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
