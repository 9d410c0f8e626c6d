"""Writing files: exact samples, and all or nothing."""

import errno
import json
import os
import stat
import subprocess
import sys
import wave

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ussfast.audio import AudioWriter, atomic_write, read, sinks
from ussfast.errors import InputError, OutputError

RATE = 16_000


def noise(channels=2, frames=RATE, seed=0):
    return (np.random.default_rng(seed).standard_normal((channels, frames)) * 0.1).astype(np.float32)


def write(path, audio, *settings_, **more):
    with AudioWriter(path, RATE, len(audio), *settings_, **more) as writer:
        for start in range(0, audio.shape[1], 1000):
            writer.write(audio[:, start : start + 1000])
    return writer


FORMATS = [
    ("wav", None, "FLOAT", 0), ("wav", 24, "PCM_24", 2**-24), ("wav", 16, "PCM_16", 2**-16),
    ("flac", None, "PCM_24", 2**-24), ("flac", 16, "PCM_16", 2**-16),
]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("suffix, bits, subtype, tolerance", FORMATS)
def test_written_samples_come_back(tmp_path, suffix, bits, subtype, tolerance, channels):
    path, audio = tmp_path / f"a.{suffix}", noise(channels, 4321)
    writer = write(path, audio, bit_depth=bits)
    assert (writer.frames, writer.clipped, writer.format) == (4321, 0, suffix)
    info = soundfile.info(path)
    assert (info.subtype, info.samplerate, info.frames) == (subtype, RATE, 4321)
    got, _ = read(path)
    np.testing.assert_allclose(got, audio, atol=tolerance, rtol=0)
    write(tmp_path / f"b.{suffix}", got, bit_depth=bits)
    assert (tmp_path / f"b.{suffix}").read_bytes() == path.read_bytes()  # reading and writing again is exact
    assert sorted(os.listdir(tmp_path)) == [f"a.{suffix}", f"b.{suffix}"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 3000), max_size=5), bits=st.sampled_from([16, 24, 32]))
def test_any_block_sizes_also_none_give_a_valid_file(tmp_path, sizes, bits):
    path, audio = tmp_path / "a.wav", noise(3, sum(sizes))
    with AudioWriter(path, RATE, 3, bit_depth=bits) as writer:
        for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
            writer.write(audio[:, stop - size : stop])
    got, _ = soundfile.read(path, always_2d=True)
    np.testing.assert_allclose(got.T, audio, atol=2.0**-bits, rtol=0)
    assert path.stat().st_size % 2 == 0


def test_other_readers_of_wav_agree(tmp_path):
    write(tmp_path / "a.wav", noise(1, 333), bit_depth=24)  # an odd number of bytes
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnframes(), file.getsampwidth(), file.getframerate()) == (333, 3, RATE)


@pytest.mark.parametrize("suffix, bits", [("wav", 16), ("wav", 24), ("flac", 16), ("flac", 24)])
def test_pcm_clips_and_counts(tmp_path, suffix, bits):
    path, step = tmp_path / f"a.{suffix}", 2.0 ** -(bits - 1)
    writer = write(path, np.array([[1.0, -1.0, 1.5, -2.0, 0.5, 1 - step]], np.float32), bit_depth=bits)
    assert writer.clipped == 2
    np.testing.assert_array_equal(read(path)[0], [[1 - step, -1, 1 - step, -1, 0.5, 1 - step]])


def test_float_keeps_what_is_beyond_full_scale(tmp_path):
    assert write(tmp_path / "a.wav", np.array([[3.0, -5.0]])).clipped == 0
    np.testing.assert_array_equal(read(tmp_path / "a.wav")[0], [[3, -5]])


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_large_wav_becomes_rf64(tmp_path, monkeypatch, bits):
    path, audio = tmp_path / "a.wav", noise(3, 1111)
    monkeypatch.setattr(sinks, "RIFF_LIMIT", 4000)
    write(path, audio, bit_depth=bits)
    assert path.read_bytes()[:4] == b"RF64" and soundfile.info(path).format == "RF64"
    np.testing.assert_allclose(read(path)[0], audio, atol=2.0**-bits, rtol=0)
    monkeypatch.setattr(sinks, "RIFF_LIMIT", 0xFFFFFFFF)
    write(path, audio, bit_depth=bits)
    assert path.read_bytes()[:4] == b"RIFF"


def test_nothing_appears_before_close(tmp_path):
    path = tmp_path / "a.wav"
    path.write_text("earlier")
    writer = AudioWriter(path, RATE, 1)
    writer.write(noise(1))
    others = [name for name in os.listdir(tmp_path) if name != "a.wav"]
    assert path.read_text() == "earlier" and len(others) == 1 and others[0].startswith(".ussfast-")
    writer.close()
    writer.close()
    writer.abort()
    assert os.listdir(tmp_path) == ["a.wav"] and read(path)[0].shape == (1, RATE)
    with pytest.raises(OutputError, match=r"a\.wav: already closed"):
        writer.write(noise(1))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_an_interrupted_body_leaves_nothing(tmp_path, suffix, capfd):
    path = tmp_path / f"a.{suffix}"
    path.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), AudioWriter(path, RATE, 1) as writer:
        writer.write(noise(1))
        raise KeyboardInterrupt
    writer = AudioWriter(path, RATE, 1)
    writer.write(noise(1))
    del writer
    assert os.listdir(tmp_path) == [path.name] and path.read_text() == "earlier"
    assert capfd.readouterr().err == ""


def test_bad_settings(tmp_path):
    for name, more, message in [
        ("a.flac", {"bit_depth": 32}, r"flac of 32 bits: bit_depth must be one of \[16, 24\]"),
        ("a.wav", {"bit_depth": 8}, r"wav of 8 bits: bit_depth must be one of \[16, 24, 32\]"),
        ("a.m4a", {}, "'m4a' is not a format to write: wav, flac, mp3, ogg and opus are"),
        ("a", {}, "'no suffix' is not a format to write"),
        ("a.wav", {"format": "aiff"}, "'aiff' is not a format to write"),
        ("a.flac", {"channels": 9}, "flac holds 1 to 8 channels, not 9"),
        ("a.wav", {"channels": 0}, "wav holds 1 to 1024 channels, not 0"),
        ("a.wav", {"sample_rate": 0}, "sample rate must be a whole number of Hz from 1 to 2147483647, not 0"),
        ("a.wav", {"sample_rate": 44_100.5}, "must be a whole number of Hz from 1 to 2147483647, not 44100.5"),
        ("a.flac", {"sample_rate": 2_000_000}, "FLAC of 1 channels at 2000000 Hz"),
    ]:
        with pytest.raises(InputError, match=message):
            AudioWriter(tmp_path / name, **{"sample_rate": RATE, "channels": 1, **more})
    assert os.listdir(tmp_path) == []


def test_bad_blocks(tmp_path):
    with AudioWriter(tmp_path / "a.dat", RATE, 2, format="wav") as writer:
        for block in (np.zeros((3, 5)), np.zeros(5), np.zeros((2, 5), np.int16)):
            with pytest.raises(InputError, match=r"float \[2, samples\] expected, not (float64|int16) \["):
                writer.write(block)
        with pytest.raises(InputError, match="NaN or infinity in the audio to write"):
            writer.write(np.full((2, 5), np.nan))
        writer.write(np.zeros((2, 5)))
    assert read(tmp_path / "a.dat")[0].shape == (2, 5)


# The kernel refuses bytes beyond this limit in the middle of the work, as it does on a full disk.
LIMITED = """
import resource, sys
import numpy as np
from ussfast.audio import AudioWriter, atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
audio = np.random.default_rng(0).uniform(-1, 1, (2, 1000))
def audio_file(path):
    with AudioWriter(path, 48_000, 2) as writer:
        for _ in range(int(sys.argv[2])):
            writer.write(audio)
def json_file(path):
    with atomic_write(path) as temporary:
        temporary.write_text("x" * 200_000)
def tensors(path):
    from safetensors.numpy import save_file
    with atomic_write(path) as temporary:
        save_file({"a": audio.repeat(20)}, temporary)
try:
    kinds = {"wav": audio_file, "flac": audio_file, "json": json_file, "safetensors": tensors}
    kinds[sys.argv[1].rsplit(".")[-1]](sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    "suffix, blocks",
    [
        ("wav", 400),
        ("flac", 400),
        ("json", 1),
        ("safetensors", 1),
        ("wav", 13),
        ("flac", 17),
    ],  # last two: in close
)
def test_a_failed_write_leaves_nothing(tmp_path, suffix, blocks):
    path = tmp_path / f"a.{suffix}"
    path.write_text("earlier")
    command = [sys.executable, "-c", LIMITED, str(path), str(blocks)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"OutputError {path}: could not be written: ")
    assert "File too large" in done.stdout and f"MB free in {tmp_path})" in done.stdout
    assert os.listdir(tmp_path) == [path.name] and path.read_text() == "earlier"
    assert done.stderr == ""


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_full_disk_says_so(tmp_path, monkeypatch, suffix):
    """/dev/full takes nothing, whatever is written."""
    path = tmp_path / f"a.{suffix}"
    monkeypatch.setattr("builtins.open", lambda *_: os.fdopen(os.open("/dev/full", os.O_RDWR), "w+b"))
    # Not through `with`: the header alone may already fail.
    with pytest.raises(OutputError, match=f"{path}: could not be written: No space left on device .* MB free"):
        writer = AudioWriter(path, RATE, 2)
        for _ in range(10):
            writer.write(noise())
        writer.close()
    assert os.listdir(tmp_path) == []


def test_too_long_for_the_disk_fails_at_once(tmp_path):
    with pytest.raises(OutputError, match=r"not enough space in .* \(8000000000000\.0 MB needed, .* MB free\)"):
        AudioWriter(tmp_path / "a.wav", RATE, 2, expected_frames=10**18)
    assert os.listdir(tmp_path) == []
    write(tmp_path / "a.wav", noise(), expected_frames=RATE)


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    cases = [
        (tmp_path / "none/a.wav", f"{tmp_path}/none does not exist"),
        (tmp_path / "file/a.wav", f"{tmp_path}/file is not a folder"),
        (tmp_path / "folder.wav", "is a folder, not a file that could be written"),
        ("/proc/self/a.wav", "cannot be written: /proc/self: "),
    ]
    for path, message in cases:
        with pytest.raises(OutputError, match=message):
            AudioWriter(path, RATE, 1)
        with pytest.raises(OutputError, match=message), atomic_write(path):
            pass
    with pytest.raises(OutputError, match="/dev/null: is not a regular file"), atomic_write("/dev/null"):
        pass
    assert os.path.exists("/dev/null")

    def refuse(*_):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match=f"{tmp_path}: Permission denied"):
        AudioWriter(tmp_path / "a.wav", RATE, 1)


def test_atomic_write_replaces_or_leaves(tmp_path):
    path = tmp_path / "a.json"
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".json" and temporary.name.startswith(".")
        temporary.write_text(json.dumps({"a": 1}))
        assert not path.exists()
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), atomic_write(path):  # the body's own trouble
        (tmp_path / "none").read_text()
    assert os.listdir(tmp_path) == ["a.json"] and json.loads(path.read_text()) == {"a": 1}
