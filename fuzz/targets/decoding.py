"""Small files of every format that we read, damaged: read whole, in blocks, from memory and by their header alone."""

import io
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from fuzz.mutate import ODD, changed
from ussfast.audio import AudioReader, AudioWriter, load, probe
from ussfast.errors import AudioError, UssfastError

SECONDS, MIB = 10.0, 96
KINDS = (
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_U8"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAV", "MS_ADPCM"),
    ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "FLOAT"), ("W64", "PCM_24"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT"),
    ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("AU", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"),
    ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
)  # fmt: skip
HEADER = 200  # bytes in which most of a header lies


@dataclass(frozen=True)
class Sample:
    data: bytes
    rate: int
    channels: int
    frames: int
    exact: bool  # whether as many frames come out as went in


def prepare(folder: Path) -> list[Sample]:
    numbers, samples = np.random.default_rng(0), []
    for channels, frames, rate in ((1, 700, 16000), (2, 9000, 48000)):
        audio = (numbers.standard_normal((frames, channels)) * 0.1).astype(np.float32)
        for format, subtype in KINDS:
            file = io.BytesIO()
            soundfile.write(file, audio, rate, subtype, format=format)
            exact = subtype not in ("MS_ADPCM", "MPEG_LAYER_III")
            samples.append(Sample(file.getvalue(), rate, channels, frames, exact))
        for name, depth in (("a.wav", 16), ("a.wav", 24), ("a.wav", 32), ("a.flac", 16), ("a.mp3", None)):
            with AudioWriter(folder / name, rate, channels, bit_depth=depth) as writer:
                writer.write(audio.T)
            samples.append(Sample((folder / name).read_bytes(), rate, channels, frames, name != "a.mp3"))
    return samples


def one(samples: list[Sample], rng: random.Random, folder: Path) -> None:
    sample = rng.choice(samples)
    data, whole = _damaged(sample.data, rng)
    path = folder / rng.choice(("a", "a.wav", "a.mp3", "a.raw"))
    path.write_bytes(data)
    try:
        audio, rate = load(path, None, 32000)
    except AudioError:
        _refused_too(path, rng)
        raise
    info = probe(path)
    assert audio.dtype == np.float32 and audio.ndim == 2 and audio.shape[1] > 0 and np.isfinite(audio).all()
    assert (info.sample_rate, info.channels) == (rate, len(audio)), f"{info} is not {rate} {audio.shape}"
    if whole:
        assert (rate, len(audio)) == (sample.rate, sample.channels)
        assert not sample.exact or audio.shape[1] == sample.frames, f"{audio.shape} from {sample.frames} frames"
    size = rng.choice((1 + rng.randrange(50), 1000, 4096, 5000))
    with AudioReader(path, size) as reader:
        blocks = list(reader)
    assert all(block.shape[1] == size for block in blocks[:-1]) and 1 <= blocks[-1].shape[1] <= size
    assert np.array_equal(np.concatenate(blocks, 1), audio), "blocks are not the whole"
    if rng.random() < 0.2:
        assert np.array_equal(load(io.BytesIO(data), None, 32000)[0], audio), "from memory it is another"


def _damaged(data: bytes, rng: random.Random) -> tuple[bytes, bool]:
    """The bytes, and whether they are as they were."""
    match rng.randrange(8):
        case 0:
            return data, True
        case 1:
            return changed(data, rng), False
        case 2:
            return data[: rng.randrange(len(data) + 1)], False
        case 3:  # in the middle of the audio
            start = min(len(data), HEADER)
            return data[:start] + changed(data[start:], rng, 3), False
        case 4:  # a field of the header says something odd
            size, at = rng.choice((2, 4, 8)), 2 * rng.randrange(HEADER // 2)
            number = (rng.choice(ODD) % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
            return data[:at] + number + data[at + size :], False
        case _:
            return changed(data[:HEADER], rng, 3) + data[HEADER:], False


def _refused_too(path: Path, rng: random.Random) -> None:
    """What cannot be read whole cannot be read in blocks either."""
    try:
        with AudioReader(path, rng.choice((7, 500, 4096))) as reader:
            for _ in reader:
                pass
    except UssfastError:
        return
    raise AssertionError("refused whole, and read in blocks")
