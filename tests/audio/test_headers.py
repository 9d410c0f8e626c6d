"""Headers that are damaged, or were never completed."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile

from ussfast.audio import AudioReader, probe, read
from ussfast.audio.headers import Patched, audio_bytes
from ussfast.errors import AudioError

RATE, FRAMES = 16_000, 3000
AUDIO = (np.random.default_rng(0).standard_normal((2, FRAMES)) * 0.1).astype(np.float32)
AUDIO = np.round(AUDIO * 2**15) / np.float32(2**15)
BYTES = 4 * FRAMES
# Where the size of the audio is in what libsndfile writes (16 bits, two channels): what it is there, and its layout.
SIZES = {
    "WAV": (BYTES, "<I"), "RF64": (BYTES, "<Q"), "W64": (BYTES + 24, "<Q"), "AIFF": (BYTES + 8, ">I"),
    "CAF": (BYTES + 4, ">Q"), "AU": (BYTES, ">I"),
}  # fmt: skip


def written(path, format):
    """The bytes of a file, and where in it the size of the audio is."""
    soundfile.write(path, AUDIO.T, RATE, "PCM_16", format=format)
    data, (size, layout) = path.read_bytes(), SIZES[format]
    assert data.count(field := struct.pack(layout, size)) == 1
    return data, data.index(field)


def changed(data, at, new):
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize("format", SIZES)
def test_a_header_that_was_never_completed(tmp_path, format):
    """As of a recorder that lost its power: the size is 0, and that of the whole file too."""
    path = tmp_path / "a"
    data, at = written(path, format)
    path.write_bytes(changed(data, at, bytes(struct.calcsize(SIZES[format][1]))))
    np.testing.assert_array_equal(read(path)[0], AUDIO)
    assert probe(path).frames == FRAMES
    with AudioReader(path, 700) as reader:
        np.testing.assert_array_equal(np.concatenate(list(reader), 1), AUDIO)


def test_an_rf64_both_of_whose_sizes_are_0(tmp_path):
    path = tmp_path / "a"
    data, at = written(path, "RF64")
    body = data.index(b"data")
    path.write_bytes(changed(changed(data, at, bytes(8)), body + 4, bytes(4)))
    np.testing.assert_array_equal(read(path)[0], AUDIO)


def test_caf_of_unknown_size(tmp_path):
    path = tmp_path / "a"
    data, at = written(path, "CAF")
    path.write_bytes(changed(data, at, b"\xff" * 8))
    np.testing.assert_array_equal(read(path)[0], AUDIO)


def test_silence_after_a_header_that_was_never_completed(tmp_path):
    path = tmp_path / "a.wav"
    data, at = written(path, "WAV")
    path.write_bytes(changed(data, at, bytes(4))[: at + 4] + bytes(4000))
    np.testing.assert_array_equal(read(path)[0], np.zeros((2, 1000)))


@pytest.mark.parametrize("format", ["WAV", "RF64", "AU"])
def test_an_empty_recording_has_no_audio(tmp_path, format):
    """Also where something else follows, such as a title."""
    path = tmp_path / "a"
    data, at = written(path, format)
    start = 24 if format == "AU" else data.index(b"data") + 8
    empty = changed(data, at, bytes(struct.calcsize(SIZES[format][1])))[:start]
    for tail in (b"",) if format == "AU" else (b"", b"LIST\4\0\0\0INFO", b"LIST\5\0\0\0INFO!\0id3 \2\0\0\0xx"):
        path.write_bytes(empty + tail)
        with pytest.raises(AudioError, match=r"no audio in it \(0 samples\)$"):
            read(path)


@pytest.mark.parametrize("format", SIZES)
@pytest.mark.parametrize("size", [2**63 - 1, 2**63, 2**64 - 1, 2**64 - 25, 2**62, 25, 1])
def test_sizes_of_other_chunks_that_are_lies(tmp_path, format, size):
    """In place of every field of the header that may be one: whole audio, or an AudioError of one line."""
    path = tmp_path / "a"
    data, _ = written(path, format)
    layout = SIZES[format][1]
    field = struct.pack(layout, size % 2 ** (8 * struct.calcsize(layout)))
    for at in range(4, 112, 4):
        path.write_bytes(changed(data, at, field))
        try:
            assert np.isfinite(read(path)[0]).all()
        except AudioError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_whatever_a_decoder_raises_is_an_audio_error(tmp_path, monkeypatch):
    path = tmp_path / "a"
    written(path, "WAV")

    class Broken(Exception):
        pass

    def broken(*_):
        raise Broken("of two\nlines")

    monkeypatch.setattr(soundfile.SoundFile, "buffer_read_into", broken)
    with pytest.raises(AudioError, match=r"damaged \(of two lines\): only 0.00 of 0.19 s could be read$"):
        read(path)
    monkeypatch.setattr(soundfile.SoundFile, "__init__", broken)
    with pytest.raises(AudioError, match=r"a: of two lines$"):
        read(path)


def test_names_that_are_not_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe4.wav")
    with open(path, "wb") as file:
        soundfile.write(file, AUDIO.T, RATE, "PCM_16", format="WAV")
    np.testing.assert_array_equal(read(path)[0], AUDIO)


def test_patched_files_read_alike_in_pieces_of_any_size():
    data = bytes(range(100))
    patches = ((3, b"abc"), (50, b"defghijk"))
    expected = b"\0\1\2abc" + data[6:50] + b"defghijk" + data[58:]
    for size in (1, 2, 5, 49, 53, 100):
        file = Patched(io.BytesIO(data), patches)
        assert b"".join(iter(lambda file=file, size=size: file.read(size), b"")) == expected
    file.seek(51)
    assert file.read(3) == b"efg" and file.tell() == 54


def test_files_of_other_kinds_say_nothing_of_their_audio():
    for data in (b"", b"RI", b".snd", b"fLaC" + bytes(50), b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEdata"):
        assert audio_bytes(io.BytesIO(data)) is None
