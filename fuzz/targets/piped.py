"""Bytes on standard input: raw PCM as it may come, and files that are none."""

import io
import random
from pathlib import Path

import numpy as np
import soundfile

from fuzz.mutate import changed
from ussfast.errors import AudioError, InputError
from ussfast.streaming.live.containers import ENOUGH, container
from ussfast.streaming.live.pcm import WIDTHS, encode
from ussfast.streaming.live.sources import PipeSource

SECONDS, MIB = 5.0, 64
FILES = (
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("CAF", "PCM_16"),
    ("AU", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
)  # fmt: skip


class Pipe(io.RawIOBase):
    """A pipe whose reads give what is there: pieces of any size."""

    def __init__(self, data: bytes, rng: random.Random):
        self._data, self._rng = io.BytesIO(data), rng
        self._sizes = rng.choice(((1, 2, 3), (1, 100, 1000), (1 << 20,))[0 if len(data) < 5000 else 1 :])

    def read(self, count: int = -1) -> bytes:
        return self._data.read(min(count, self._rng.choice(self._sizes)))


class Stdin:
    def __init__(self, file: io.RawIOBase):
        self.buffer = file

    def isatty(self) -> bool:
        return False


def prepare(folder: Path) -> list[bytes]:
    audio, made = np.random.default_rng(0).standard_normal(3000) * 0.1, []
    for format, subtype in FILES:
        file = io.BytesIO()
        soundfile.write(file, audio, 16000, subtype, format=format)
        made.append(file.getvalue())
    return made


def one(files: list[bytes], rng: random.Random, folder: Path) -> None:
    format, channels = rng.choice(sorted(WIDTHS)), rng.choice((1, 1, 2, 5, 65))
    is_file = rng.random() < 0.2
    data, width = rng.choice(files) if is_file else _pcm(files, rng), WIDTHS[format] * channels
    if not is_file and rng.random() < 0.6:
        data = data[: len(data) // width * width]
    blocks: list[np.ndarray] = []
    source = PipeSource(Stdin(Pipe(data, rng)), 16000, channels, format)
    kind = container(data[:ENOUGH], ended=len(data) < ENOUGH)
    assert kind is not None and (kind or not is_file), "a file is not known"
    try:
        for block in source.blocks(0.02):
            assert block.dtype == np.float32 and block.shape[0] == channels and block.shape[1] > 0
            blocks.append(block)
    except AudioError as error:
        if kind:
            assert kind in str(error) and not blocks, "something came of a file"
        else:
            assert len(data) % width or not data, f"{error} of {len(data)} bytes"
        raise
    except InputError as error:
        raise AssertionError(str(error)) from error
    finally:
        if blocks:
            samples = np.concatenate(blocks, 1)
            assert samples.shape[1] == len(data) // width
            back = encode(samples, format)[0] if np.isfinite(samples).all() else None
            if back is not None and format != "f32le":
                assert back == data[: len(back)], "other samples than were piped in"
    assert not kind and len(data) % width == 0


def _pcm(files: list[bytes], rng: random.Random) -> bytes:
    """Samples; a few that begin as files do, or as damaged ones do."""
    count = rng.choice((0, 1, 2, 5, 100, 4000, 70000))
    body = rng.randbytes(count) if rng.random() < 0.7 else bytes(count)
    match rng.randrange(5):
        case 0:
            return rng.choice(files)[: rng.randrange(1, 20)] + body
        case 1:
            return changed(rng.choice(files)[:60], rng, 3) + body
        case 2:
            return b"\xff" + bytes([rng.choice((0xFB, 0xF3, 0xE3, 0xF1, 0xFF))]) + body
        case _:
            return body
