"""Audio in files that callers hold open."""

import gc
import io
import os
import tempfile
import threading
import urllib.response
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ussfast.audio import AudioReader, given_file, load, probe, read
from ussfast.audio.held import HeldFile
from ussfast.errors import AudioError, InputError, OutputError

RATE = 16_000
AUDIO = (np.random.default_rng(0).standard_normal((2, 4000)) * 0.1).astype(np.float32)


def encoded(format="WAV", subtype="FLOAT"):
    file = io.BytesIO()
    soundfile.write(file, AUDIO.T, RATE, subtype, format=format)
    return file.getvalue()


@pytest.fixture(autouse=True)
def no_copies_are_left(tmp_path, monkeypatch):
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    gc.collect()
    assert not list(folder.iterdir())


class OnlyReads:
    """As a response of a server: no seek, no tell, pieces of its own choice."""

    def __init__(self, data):
        self._file, self.closed = io.BytesIO(data), False

    def read(self, count):
        return self._file.read(min(count, 1000))


def kinds(data):
    yield io.BytesIO(data)
    spooled = tempfile.SpooledTemporaryFile()
    spooled.write(data)
    spooled.seek(0)
    yield spooled
    yield io.BufferedReader(io.BytesIO(data))
    yield OnlyReads(data)
    yield urllib.response.addinfourl(io.BytesIO(data), {}, "http://example.org/a.wav")


def test_open_files_are_read_and_neither_closed_nor_moved():
    for file in kinds(encoded()):
        audio, rate = load(file, None, RATE)
        assert rate == RATE and not file.closed
        np.testing.assert_array_equal(audio, AUDIO)
        if not isinstance(file, OnlyReads):
            assert file.tell() == 0


@pytest.mark.parametrize(("format", "subtype"), [("FLAC", "PCM_24"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")])
def test_every_format_is_read_as_from_a_path(tmp_path, format, subtype):
    data = encoded(format, subtype)
    (tmp_path / "a").write_bytes(data)
    np.testing.assert_array_equal(read(io.BytesIO(data))[0], read(tmp_path / "a")[0])


def test_blocks_and_facts():
    with AudioReader(io.BytesIO(encoded()), 900) as reader:
        assert (reader.path, reader.frames) == (Path("audio"), 4000)
        np.testing.assert_array_equal(np.concatenate(list(reader), 1), AUDIO)
    assert probe(OnlyReads(encoded())).seconds == 0.25


def test_reading_begins_where_the_file_stands():
    file = io.BytesIO(b"header of the caller's" + encoded())
    file.seek(22)
    np.testing.assert_array_equal(read(file)[0], AUDIO)
    assert file.tell() == 22
    file.seek(0, io.SEEK_END)
    with pytest.raises(AudioError, match=r"audio: nothing after its position, byte \d+: seek\(0\) first"):
        read(file)


def test_a_pipe(tmp_path):
    out, into = os.pipe()
    data = encoded() * 1

    def write():
        with open(into, "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with open(out, "rb") as pipe:
        np.testing.assert_array_equal(read(pipe)[0], AUDIO)
    writer.join()


@pytest.mark.parametrize(
    ("name", "stem", "shown"),
    [
        ("/tmp/in/a song.flac", "a_song", "a song.flac"), (b"b.wav", "b", "b.wav"), (7, "audio", "audio"),
        (None, "audio", "audio"), ("", "audio", "audio"), ("..", "audio", ".."), ("x" * 300, "x" * 100, "x" * 300),
        ("a\0b/../c\nd.wav", "c_d", "c\nd.wav"),
    ],
)  # fmt: skip
def test_names(name, stem, shown):
    file = io.BytesIO(b"x")
    file.name = name
    held = HeldFile(file)
    assert (held.stem, str(held)) == (stem, " ".join(shown.split("\n")))
    assert given_file(held) is held and Path(held).read_bytes() == b"x"


class Reads:
    def __init__(self, what):
        self.what = what

    def read(self, count):
        if isinstance(self.what, Exception):
            raise self.what
        return self.what


async def later(count):
    return b""


class Upload:
    name = "song.wav"

    def read(self, count):
        return later(count)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (io.BytesIO(), r"audio: empty file \(0 bytes\)"),
        (io.BytesIO(b"hello\n" * 99), "audio: libsndfile could not read it"),
        (io.StringIO("RIFF"), r"audio: its read\(\) gives text, not bytes: pass a file opened in binary mode"),
        (Upload(), r"song.wav: its read\(\) gives coroutine, not bytes"),
        (Reads(None), r"audio: its read\(\) gives NoneType, not bytes"),
        (Reads(TimeoutError("timed\nout")), "audio: could not be read: timed out"),
        (Reads(RuntimeError()), "audio: could not be read: RuntimeError"),
    ],
)
def test_what_cannot_be_read(file, said):
    with pytest.raises(AudioError, match=f"^{said}") as caught:
        load(file, None, RATE)
    assert "\n" not in str(caught.value)


def test_closed_files_and_other_things():
    closed = io.BytesIO(encoded())
    closed.close()
    with pytest.raises(AudioError, match="audio: could not be read: I/O operation on closed file"):
        read(closed)
    for thing in (7, None, b"a.wav"):
        with pytest.raises(AudioError, match="a path or a file opened in binary mode is needed, not"):
            read(thing)
    with pytest.raises(InputError, match="block_frames"):
        AudioReader(io.BytesIO(), 0)


def test_no_room_for_the_copy(no_copies_are_left, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(no_copies_are_left / "none"))
    with pytest.raises(OutputError, match="audio: could not be copied to .*none: No such file or directory"):
        read(io.BytesIO(encoded()))
