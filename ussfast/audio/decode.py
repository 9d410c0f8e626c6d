"""What stands behind `AudioReader`: one source per decoder.

A source has sample_rate, channels, frames (None if unknown), seconds (None if unknown), format, and
`read(n)` -> float32 [frames, channels], empty at the end. A `DecodeError` is one clause on what went wrong.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from ussfast.audio.headers import Patched, audio_bytes

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
        with open(path, "rb") as file:
            held = audio_bytes(file)
        patches = held.patches if held is not None else ()
        # By bytes, which names that are not UTF-8 are, too.
        self._file = self._open(Patched(open(path, "rb"), patches) if patches else os.fsencode(path))
        self._failed: str | None = None  # told once the audio before the failure is out
        self._rest = np.zeros((0, self._file.channels), np.float32)
        self.shortfall_s = 0.0
        self._feed_errors: list[OSError] = []
        if self._file.format == "MP3":
            # Without a tag that counts its frames, libsndfile guesses an MP3's length from the first bit rate
            # and never reads past the guess: of a variable bit rate it can lose most. In a pipe it cannot.
            self._file.close()
            self._file = self._open(_mp3_pipe(path, self._feed_errors))
            self.shortfall_s = 0.5  # encoders disagree by a few frames on what the tag counts
        self.sample_rate, self.channels = self._file.samplerate, self._file.channels
        if self.sample_rate < 1 or self.channels < 1:
            self.close()
            raise DecodeError(f"its header says {self.channels} channels at {self.sample_rate} Hz")
        self.format = f"{self._file.format} {self._file.subtype}"
        self.frames = self._file.frames if 0 <= self._file.frames < 1 << 60 else None
        self.seconds = None if self.frames is None else self.frames / self.sample_rate

    @staticmethod
    def _open(file: bytes | int | Patched) -> _ForwardFile:
        try:
            return _ForwardFile(file)
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: .raw needs more arguments
            if isinstance(file, Patched):
                file.close()
            raise DecodeError(_reason(error)) from error

    def read(self, frames: int) -> np.ndarray:
        out, done = np.empty((frames, self.channels), np.float32), 0
        while done < frames:
            # Pieces are the same whatever `frames` is: so is what is lost where the decoder stumbles.
            if not len(self._rest) and frames - done >= PIECE_FRAMES:
                got = self._piece(out[done : done + PIECE_FRAMES])
            else:
                if not len(self._rest):
                    piece = np.empty((PIECE_FRAMES, self.channels), np.float32)
                    self._rest = piece[: self._piece(piece)]
                got = min(len(self._rest), frames - done)
                out[done : done + got], self._rest = self._rest[:got], self._rest[got:]
            if not got:
                break
            done += got
        if self._failed is not None and not done:
            self.finish(0)  # perhaps it is not the file's fault
            raise DecodeError(self._failed)
        return out[:done]

    def _piece(self, piece: np.ndarray) -> int:
        """Fills [PIECE_FRAMES, channels], small: where the decoder stumbles, all of it is lost; how many came."""
        if self._failed is not None:
            return 0
        try:
            return self._file.buffer_read_into(piece, "float32")
        except soundfile.SoundFileError as error:
            self._failed = _reason(error)
            return 0

    def finish(self, seconds_read: float) -> None:
        if self._feed_errors:
            raise DecodeError(self._feed_errors[0].strerror or str(self._feed_errors[0]))

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


def _mp3_pipe(path: Path, errors: list[OSError]) -> int:
    """Descriptor to read an MP3 through a pipe, from its first MPEG frame on: libsndfile stumbles over junk
    before it. The thread behind the pipe ends with the file or the reader; why it could not read on is in `errors`."""
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
        try:
            with file, os.fdopen(into, "wb") as pipe:
                shutil.copyfileobj(file, pipe)
        except BrokenPipeError:
            pass
        except OSError as error:
            errors.append(error)

    threading.Thread(target=feed, name="ussfast-mp3", daemon=True).start()
    return out


# What libsndfile says where it has nothing better to say, in other words.
_VAGUE = {
    # Of a pipe, which ours for MP3 is.
    "File does not exist or is not a regular file (possibly a pipe?)": "an MP3 of which nothing can be decoded",
    "Unspecified internal error": "a part that cannot be decoded",
    "Internal error : SF_INFO struct incomplete": "the header is damaged",
}


def _reason(error: Exception) -> str:
    said = " ".join(str(getattr(error, "error_string", None) or error).split()).rstrip(".")
    return _VAGUE.get(said, said)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
