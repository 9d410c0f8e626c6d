"""MP3, which libsndfile reads from a pipe: lengths, junk, damage."""

import os

import numpy as np
import pytest
import soundfile

from ussfast.audio import decode as audio_decode
from ussfast.audio import probe, read
from ussfast.errors import AudioError

RATE = 16_000


def noise(samples):
    return (np.random.default_rng(0).standard_normal(samples) * 0.1).astype(np.float32)


def complaint(path):
    with pytest.raises(AudioError) as caught:
        read(path)
    return str(caught.value)


def test_mp3_without_length_tag_is_read_to_its_end(tmp_path):
    """libsndfile alone would stop after 8 of these 30 seconds."""
    path, rate = tmp_path / "a.mp3", 44_100
    quiet = 0.01 * np.sin(2 * np.pi * 200 * np.arange(20 * rate) / rate)
    loud = 0.3 * np.random.default_rng(0).standard_normal(10 * rate)
    soundfile.write(path, np.r_[quiet, loud], rate, bitrate_mode="VARIABLE", compression_level=0.5)
    data = path.read_bytes()
    assert probe(path).frames == 30 * rate
    path.write_bytes(data[data.index(b"\xff\xfb", 4) :])  # without the first frame, which is the tag
    assert probe(path).frames is None and probe(path).seconds is None
    audio, _ = read(path)
    assert 30 * rate <= audio.shape[1] < 31 * rate
    for size in (b"\x27\x08", b"\x27\x10"):  # 5000 bytes of cover art; and a tag that says 5008
        path.write_bytes(b"ID3\x04\x00\x00\x00\x00" + size + bytes(5000) + data + b"TAG" + bytes(125))
        assert 30 * rate <= read(path)[0].shape[1] < 31 * rate


def test_mp3_that_the_pipe_refuses(tmp_path, monkeypatch):
    """libsndfile closes the pipe itself then; closing it again could hit another thread's file."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.mp3"
    soundfile.write(path, noise(RATE), RATE)
    out, into = os.pipe()
    os.write(into, b"no frame in here")
    os.close(into)
    monkeypatch.setattr(audio_decode, "_mp3_pipe", lambda *_: out)
    assert "libsndfile could not read it (" in complaint(path)
    with pytest.raises(OSError):
        os.fstat(out)


def test_damaged_mp3s_are_told_by_their_content(tmp_path, monkeypatch):
    """To libsndfile, a pipe without a single frame is no regular file."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.mp3"
    soundfile.write(path, noise(RATE), RATE)
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes(3000))
    assert "could not read it (an MP3 of which nothing can be decoded)" in complaint(path)
    path.write_bytes(data[: len(data) // 2])
    assert "damaged (a part that cannot be decoded): only 0." in complaint(path)


def test_an_mp3_that_the_disk_cannot_give(tmp_path, monkeypatch):
    path = tmp_path / "a.mp3"
    soundfile.write(path, noise(20 * RATE), RATE)

    def broken(file, pipe):
        pipe.write(file.read(20_000))
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(audio_decode.shutil, "copyfileobj", broken)
    assert "(Input/output error): only " in complaint(path)
