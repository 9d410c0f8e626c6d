"""What stands behind `AudioReader`: one source per decoder, and how much audio a file's header promises.

A source has sample_rate, channels, frames (None if unknown), seconds (None if unknown), format, and
`read(n)` -> float32 [frames, channels], empty at the end. A `DecodeError` is one clause on what went wrong.
"""

import contextlib
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import soundfile

# Sizes that programs write when they cannot know the length (ffmpeg, sox, arecord into a pipe).
UNKNOWN_SIZES = {0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF}
# Sync bits with a version and a layer that exist, then a bit rate that does.
MPEG_FRAME = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x00-\xef]")
PIECE_FRAMES = 4096


class DecodeError(Exception):
    """A decoder gave up; the text is its reason."""


class Source(Protocol):
    sample_rate: int
    channels: int
    frames: int | None
    seconds: float | None
    format: str
    shortfall_s: float  # how far a read may stop short of `seconds` before the file counts as truncated

    def read(self, frames: int) -> np.ndarray: ...
    def finish(self, seconds_read: float) -> None: ...  # raises DecodeError if the end came for a bad reason
    def close(self) -> None: ...


class _ForwardFile(soundfile.SoundFile):
    """Forward only: soundfile otherwise seeks after every read, which loses the tail of a damaged FLAC."""

    def seekable(self) -> bool:
        return False


class SndfileSource:
    """libsndfile. `frames` is None for a FLAC from a stream and an MP3 without a length tag."""

    def __init__(self, path: Path):
        self._file = self._open(os.fsencode(path))  # a name need not be text
        self._failed: str | None = None  # told once the audio before the failure is out
        self.shortfall_s = 0.0
        if self._file.format == "MP3":
            # Without a tag that counts its frames, libsndfile guesses an MP3's length from the first bit rate
            # and never reads past the guess: of a variable bit rate it can lose most. In a pipe it cannot.
            self._file.close()
            self._file = self._open(_mp3_pipe(path))
            self.shortfall_s = 0.5  # encoders disagree by a few frames on what the tag counts
        self.sample_rate, self.channels = self._file.samplerate, self._file.channels
        self.format = f"{self._file.format} {self._file.subtype}"
        self.frames = self._file.frames if self._file.frames < 1 << 60 else None
        self.seconds = None if self.frames is None else self.frames / self.sample_rate

    @staticmethod
    def _open(file: bytes | int) -> _ForwardFile:
        try:
            return _ForwardFile(file)
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: .raw needs more arguments
            reason = getattr(error, "error_string", None) or str(error)
            raise DecodeError(reason.strip().rstrip(".")) from error

    def read(self, frames: int) -> np.ndarray:
        out, done = np.empty((frames, self.channels), np.float32), 0
        while done < frames and self._failed is None:
            # In small pieces: where the decoder stumbles, the piece is lost.
            piece = out[done : done + PIECE_FRAMES]
            try:
                got = self._file.buffer_read_into(piece, "float32")
            except soundfile.SoundFileError as error:
                self._failed = str(error).strip().rstrip(".")
                break
            done += got
            if got < len(piece):
                break
        if self._failed is not None and not done:
            raise DecodeError(self._failed)
        return out[:done]

    def finish(self, seconds_read: float) -> None:
        pass

    def close(self) -> None:
        self._file.close()


class FfmpegSource:
    """An ffmpeg child process that writes float32 to a pipe; `seconds` is what ffprobe estimates."""

    frames: int | None = None

    def __init__(self, path: Path):
        name = str(path.absolute())  # a leading slash: never an option, never a protocol
        # Playlists must not make ffmpeg fetch addresses.
        only_files = ["-v", "error", "-protocol_whitelist", "file"]
        facts_wanted = "-select_streams a:0 -of json -show_entries"
        entries = "stream=sample_rate,channels,codec_name:format=duration"
        probe = ["ffprobe", *only_files, *facts_wanted.split(), entries, name]
        found = subprocess.run(
            probe, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace"
        )
        if found.returncode:
            raise DecodeError(_last_line(found.stderr))
        try:
            facts = json.loads(found.stdout)
            stream = facts["streams"][0]
            self.sample_rate, self.channels = int(stream["sample_rate"]), int(stream["channels"])
            duration = str(facts.get("format", {}).get("duration", "N/A"))
            self.seconds = None if duration == "N/A" else float(duration)
        except (ValueError, LookupError, TypeError) as error:
            raise DecodeError("no audio track") from error
        if self.sample_rate < 1 or self.channels < 1:
            raise DecodeError(f"an audio track of {self.channels} channels at {self.sample_rate} Hz")
        self.format = f"ffmpeg {stream.get('codec_name', 'unknown')}"
        # A container's duration is an estimate and covers its video too: only `finish` judges it.
        self.shortfall_s = float("inf")
        self._log = tempfile.TemporaryFile()  # a chatty ffmpeg would block on a pipe
        fixed = ["-map", "0:a:0", "-ac", str(self.channels), "-ar", str(self.sample_rate)]
        command = ["ffmpeg", "-nostdin", *only_files, "-i", name, *fixed, "-f", "f32le", "-"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, stdin=subprocess.DEVNULL, bufsize=1 << 20
        )

    def read(self, frames: int) -> np.ndarray:
        assert self._process.stdout is not None
        data = self._process.stdout.read(frames * self.channels * 4)
        whole = len(data) // (4 * self.channels) * self.channels
        return np.frombuffer(data, "<f4", whole).reshape(-1, self.channels)

    def finish(self, seconds_read: float) -> None:
        code = self._process.wait()
        self._log.seek(0)
        complaint = self._log.read().decode(errors="replace")
        # ffmpeg exits with 0 after a cut-off file: a complaint and a clear lack of audio together say so.
        missing = (self.seconds or 0.0) - seconds_read
        if code or (complaint and missing > max(1.0, 0.05 * seconds_read)):
            raise DecodeError(f"ffmpeg: {_last_line(complaint)}")

    def close(self) -> None:
        self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()
        self._log.close()


def open_source(path: Path) -> Source:
    """libsndfile if it can, else ffmpeg. Raises DecodeError with the reasons of all that were tried."""
    try:
        return SndfileSource(path)
    except DecodeError as error:
        first = f"libsndfile could not read it ({error})"
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        known = "wav, flac, ogg, opus, mp3, aiff, w64, caf and au"
        raise DecodeError(f"{first}; {known} work as they are, installing ffmpeg would allow other formats")
    try:
        return FfmpegSource(path)
    except (DecodeError, OSError) as error:
        raise DecodeError(f"{first}, nor could ffmpeg ({error})") from error


def audio_bytes(path: Path) -> tuple[int, int] | None:
    """(bytes of audio present, bytes the header promises), None where the format or the header does not say.

    libsndfile silently shortens a truncated WAV, RF64, AIFF, W64 or AU file to what is there; this tells.
    """
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        try:
            found = _data_chunk(file)
        except struct.error:  # the file ends inside a header: the decoder says so
            return None
    if found is None or found[1] in UNKNOWN_SIZES:
        return None
    start, size = found
    return max(0, min(size, end - start)), size


def _data_chunk(file: BinaryIO) -> tuple[int, int] | None:
    """(offset, promised size) of the audio in a chunked file or AU."""
    magic = file.read(4)
    if magic in (b".snd", b"dns."):
        start, size = struct.unpack(">II" if magic == b".snd" else "<II", file.read(8))
        return start, size
    if magic == b"riff":
        layout, header, start = "<4s12xQ", 24, 40  # W64: GUIDs, and sizes that include the chunk's header
    elif magic in (b"RIFF", b"RF64", b"RIFX", b"FORM"):
        layout, header, start = (">4sI" if magic in (b"RIFX", b"FORM") else "<4sI"), 8, 12
    else:
        return None
    size64 = None
    for _ in range(10_000):  # a damaged file must not keep us for ever
        file.seek(start)
        chunk, size = struct.unpack(layout, file.read(header))
        if header == 24:
            size -= 24
        if chunk == b"ds64":
            size64 = struct.unpack("<8xQ", file.read(16))[0]
        if chunk in (b"data", b"SSND"):
            if size == 0xFFFFFFFF and magic == b"RF64" and size64 is not None:
                size = size64
            return start + header, size
        if size < 0:
            return None
        padding = -size % 8 if header == 24 else size % 2
        start += header + size + padding
    return None


def _mp3_pipe(path: Path) -> int:
    """Descriptor to read an MP3 through a pipe, from its first MPEG frame on: libsndfile stumbles over junk
    before it. The thread behind the pipe ends with the file or the reader."""
    file = open(path, "rb")  # the thread closes it
    start, head = 0, file.read(10)
    while len(head) == 10 and head[:3] == b"ID3":
        start += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + (head[5] & 0x10 and 10)
        file.seek(start)
        head = file.read(10)
    frame = MPEG_FRAME.search(head + file.read(1 << 16))
    file.seek(start + frame.start() if frame else 0)
    out, into = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), file, os.fdopen(into, "wb") as pipe:
            shutil.copyfileobj(file, pipe)

    threading.Thread(target=feed, name="ussfast-mp3", daemon=True).start()
    return out


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
