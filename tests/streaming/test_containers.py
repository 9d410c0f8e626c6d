"""Files piped in where raw PCM is expected."""

import io
import struct

import numpy as np
import pytest
import soundfile

from ussfast.errors import AudioError
from ussfast.streaming.live.containers import ENOUGH, container
from ussfast.streaming.live.pcm import RawReader, encode

RATE = 16_000
AUDIO = (np.random.default_rng(0).standard_normal(8000) * 0.1).astype(np.float32)
FORMATS = [
    ("WAV", "PCM_16", "WAV"), ("WAVEX", "FLOAT", "WAV"), ("RF64", "PCM_16", "WAV"), ("W64", "PCM_16", "W64"),
    ("FLAC", "PCM_16", "FLAC"), ("OGG", "VORBIS", "Ogg"), ("OGG", "OPUS", "Ogg"), ("AIFF", "PCM_16", "AIFF"),
    ("CAF", "PCM_16", "CAF"), ("AU", "PCM_16", "AU"), ("MP3", "MPEG_LAYER_III", "MP3"),
]  # fmt: skip


def encoded(format, subtype, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, AUDIO, rate, subtype, format=format)
    return file.getvalue()


def others():
    """Beginnings of what libsndfile does not write."""
    mp3 = encoded("MP3", "MPEG_LAYER_III")
    yield "MP3", b"ID3\x04\0\0\0\0\1\0" + bytes(128) + mp3
    yield "MP4", struct.pack(">I", 28) + b"ftypM4A \0\0\2\0" + bytes(100)
    yield "Matroska or WebM", b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1" + bytes(50)
    yield "WMA", bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
    yield "AIFF", b"FORM\0\0\1\0AIFC"
    sizes = (371, 402, 280, 371)
    heads = [b"\xff\xf1\x50" + bytes((0x80 | n >> 11, n >> 3 & 255, (n & 7) << 5 | 31, 0xFC)) for n in sizes]
    yield "AAC", b"".join(head.ljust(size, b"\0") for head, size in zip(heads, sizes, strict=True))


class Dribble(io.RawIOBase):
    """Gives so many bytes at a time."""

    def __init__(self, data, size):
        self._data, self._size = io.BytesIO(data), size

    def read(self, count):
        return self._data.read(min(count, self._size))


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 16])
def test_files_are_refused_before_the_first_sample(size):
    files = [(name, encoded(format, subtype)) for format, subtype, name in FORMATS] + list(others())
    for rate in (8000, 11025, 22050, 44100, 48000):
        files.append(("MP3", encoded("MP3", "MPEG_LAYER_III", rate)))
    for name, data in files:
        blocks = iter(RawReader(Dribble(data, size), "s16le", 2, 44_100))
        with pytest.raises(AudioError, match=rf"^standard input: is an? {name} file, not raw PCM: .*FILE\)") as caught:
            next(blocks)
        assert "ffmpeg -i - -f s16le -ac 2 -ar 44100 - | ussfast stream" in str(caught.value)


def test_pcm_is_let_through_at_once():
    """Noise, silence, tones, and samples that begin as files do, but do not go on so."""
    numbers = np.random.default_rng(1)
    for format in ("s16le", "s24le", "f32le"):
        for level in (1e-3, 0.3, 1.0):
            for _ in range(50):
                data = encode(level * numbers.standard_normal((1, 2000)), format)[0]
                assert container(data[:16]) == "" or data[0] == 0xFF and container(data) == ""
    assert container(bytes(5)) == "" and container(bytes(4)) is None and container(bytes(4), ended=True) == ""
    assert container(b"RIFF" + bytes(8)) == "" and container(b"RIFF") is None
    assert container(b"\xff\xff" * 8) == ""


def test_at_most_enough_bytes_are_waited_for():
    head = encoded("MP3", "MPEG_LAYER_III")[:4]
    assert container(head + bytes(ENOUGH)) == ""
    aac = b"\xff\xf1\x50\x83\xff\xff\xfc"  # a frame of 8191 bytes
    assert container(aac + bytes(ENOUGH - 8)) is None and container(aac + bytes(ENOUGH - 7)) == ""


@pytest.mark.parametrize("start", [b"RIFF", b"ID3\x03", b"\0\0\0", b"fLaC", b"\xff\xfb\x90\x64\0\0", b"OggS\0"])
def test_a_short_stream_that_begins_as_a_file_is_pcm(start):
    data = start + bytes(len(start) % 2)
    (block,) = RawReader(Dribble(data, 1), "s16le", 1)
    assert encode(block, "s16le")[0] == data
    with pytest.raises(AudioError, match="1 bytes too many"):
        list(RawReader(Dribble(data + b"\1", 1), "s16le", 1))
