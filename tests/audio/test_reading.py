"""Reading files, and saying what is wrong with them."""

import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ussfast.audio import AudioReader, probe, read
from ussfast.audio import decode as audio_decode
from ussfast.errors import AudioError, InputError

RATE = 16_000
shared_tmp = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def noise(channels=2, frames=RATE, seed=0):
    return (np.random.default_rng(seed).standard_normal((channels, frames)) * 0.1).astype(np.float32)


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def complaint(path):
    """The text of the AudioError that reading `path` raises: one line that names the file."""
    with pytest.raises(AudioError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text
    return text


FORMATS = [
    ("wav", "FLOAT", 0), ("wav", "PCM_16", 2**-15), ("wav", "PCM_24", 2**-23), ("flac", "PCM_16", 2**-15),
    ("flac", "PCM_24", 2**-23), ("aiff", "PCM_16", 2**-15), ("w64", "FLOAT", 0), ("caf", "FLOAT", 0),
    ("au", "PCM_16", 2**-15), ("rf64", "FLOAT", 0),
]  # fmt: skip


@pytest.mark.parametrize("suffix, subtype, tolerance", FORMATS)
def test_lossless_formats_give_their_samples(tmp_path, suffix, subtype, tolerance):
    path, audio = tmp_path / f"a.{suffix}", noise()
    soundfile.write(path, audio.T, RATE, subtype=subtype, format=suffix.upper())
    got, rate = read(path)
    assert rate == RATE and got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(got, audio, atol=tolerance, rtol=0)
    info = probe(path)
    assert (info.path, info.sample_rate, info.channels, info.frames) == (path, RATE, 2, RATE)
    assert info.seconds == 1.0 and subtype in info.format


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
def test_lossy_formats_keep_rate_and_length(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * 44_100) / 44_100).astype(np.float32)
    soundfile.write(path, np.stack([tone, tone], 1), 44_100)
    got, rate = read(path)
    assert got.shape == (2, len(tone)) and rate == 44_100
    assert np.abs(got[0] - tone)[2000:-2000].max() < 0.05


@shared_tmp
@given(block=st.integers(1, 5000), frames=st.integers(1, 4000), channels=st.integers(1, 3))
def test_blocks_add_up_whatever_their_size(tmp_path, block, frames, channels):
    path, audio = tmp_path / "a.wav", noise(channels, frames)
    soundfile.write(path, audio.T, RATE, subtype="FLOAT")
    with AudioReader(path, block_frames=block) as reader:
        assert (reader.sample_rate, reader.channels, reader.frames) == (RATE, channels, frames)
        blocks = list(reader)
        assert list(reader) == []
    assert all(part.shape == (channels, block) for part in blocks[:-1])
    assert 1 <= blocks[-1].shape[1] <= block
    assert all(part.dtype == np.float32 and part.flags.c_contiguous and part.flags.owndata for part in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks, 1), audio)


def test_memory_does_not_depend_on_the_duration(tmp_path):
    path = tmp_path / "a.wav"
    with soundfile.SoundFile(path, "w", 48_000, 2, "PCM_16") as file:
        for _ in range(100):
            file.write(np.zeros((48_000, 2), np.int16))
    code = (
        "import sys, resource; from ussfast.audio import AudioReader\n"
        "usage = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "reader = AudioReader(sys.argv[1]); next(reader); before = usage()\n"
        "frames = sum(block.shape[1] for block in reader)\n"
        "print(frames, usage() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    frames, grown_kib = map(int, done.stdout.split())
    assert frames == 100 * 48_000 - (1 << 16) and grown_kib < 8000  # the whole file would be 37500 KiB


def test_audio_needs_no_torch():
    for file in Path(audio_decode.__file__).parent.glob("*.py"):
        assert "import torch" not in file.read_text()


def test_closing_early_is_quiet(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise().T, RATE)
    with AudioReader(path, 100) as reader:
        next(reader)
    assert list(reader) == []
    reader.close()
    with pytest.raises(InputError, match="block_frames must be at least 1, not 0"):
        AudioReader(path, 0)


def test_files_that_are_no_audio_files(tmp_path):
    assert complaint(tmp_path / "none.wav").endswith("no such file")
    assert complaint(tmp_path).endswith("is a folder, not an audio file")
    (tmp_path / "empty.wav").touch()
    assert complaint(tmp_path / "empty.wav").endswith("empty file (0 bytes)")
    assert complaint(Path("/dev/null")).endswith("is not a regular file")
    for name in ("a\0.wav", "a\ud800"):
        with pytest.raises(AudioError, match=f"^{re.escape(ascii(name))}: could not be opened: no file can have this"):
            read(name)
    soundfile.write(tmp_path / "zero.wav", np.zeros((0, 1)), RATE)
    assert complaint(tmp_path / "zero.wav").endswith("no audio in it (0 samples)")


@pytest.mark.parametrize(
    "name, data", [("a.wav", b"hello\n" * 99), ("a.raw", bytes(400)), ("a.wav", b"RIFF")]
)
def test_garbage_without_ffmpeg(tmp_path, monkeypatch, name, data):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / name).write_bytes(data)
    text = complaint(tmp_path / name)
    assert "libsndfile could not read it (" in text and "wav, flac, ogg" in text
    assert "installing ffmpeg would allow other formats" in text


@pytest.mark.parametrize("suffix", ["wav", "rf64", "aiff", "w64", "au", "flac", "mp3"])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    # FLAC and MP3 lose the block that the cut goes through.
    seconds, slack_s = (8, 0.5) if suffix in ("flac", "mp3") else (2, 0.01)
    soundfile.write(path, noise(1, seconds * RATE)[0], RATE, format=suffix.upper())
    assert read(path)[0].shape == (1, seconds * RATE)
    text = complaint(cut(path, 0.5))
    assert "truncated" in text and text.endswith(f"of {seconds:.2f} s could be read")
    read_s = float(text.split("only ")[1].split(" of ")[0])
    assert seconds / 2 - slack_s <= read_s <= seconds / 2 + slack_s


def test_wav_cut_right_after_its_header(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1)[0], RATE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:44])
    assert complaint(path).endswith("truncated: none of its 32000 bytes of audio is there")


@pytest.mark.parametrize("size", [0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_wav_from_a_pipe_is_not_truncated(tmp_path, size):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1)[0], RATE, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[40:44] = struct.pack("<I", size)
    path.write_bytes(data)
    assert read(path)[0].shape == (1, RATE)


def test_flac_of_unknown_length_is_read_to_its_end(tmp_path):
    path, audio = tmp_path / "a.flac", noise()
    soundfile.write(path, audio.T, RATE, subtype="PCM_24")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits that count the samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert probe(path).frames is None
    np.testing.assert_allclose(read(path)[0], audio, atol=2**-23)


@pytest.mark.parametrize("value, name", [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_samples_that_are_not_finite(tmp_path, value, name):
    path, audio = tmp_path / "a.wav", noise(2, 8 * RATE)
    audio[1, 5 * RATE + RATE // 2 :] = value  # not in the first block
    soundfile.write(path, audio.T, RATE, subtype="FLOAT")
    assert complaint(path).endswith(f"contains {name}, first at 5.500 s")


def fake_ffmpeg(
    folder, monkeypatch, ffmpeg, stream='{"sample_rate": "8000", "channels": 2}', duration="0.25"
):
    """Puts `ffmpeg` (shell text) and an ffprobe on an otherwise usual PATH; 2000 known frames lie in $PCM."""
    pcm = np.arange(4000, dtype="<f4").reshape(2000, 2) / 4000
    (folder / "pcm").write_bytes(pcm.tobytes())
    answer = f'{{"streams": [{stream}], "format": {{"duration": "{duration}"}}}}'
    scripts = {
        "ffprobe": f"cat <<'END'\n{answer}\nEND",
        "ffmpeg": ffmpeg.replace("$PCM", str(folder / "pcm")),
    }
    for name, body in scripts.items():
        (folder / name).write_text(f'#!/bin/sh\necho "$@" >> {folder}/{name}.args\n{body}\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    path = folder / "a film.m4a"
    path.write_bytes(b"not for libsndfile")
    return path, pcm.T


def test_ffmpeg_decodes_what_libsndfile_does_not(tmp_path, monkeypatch):
    path, expected = fake_ffmpeg(tmp_path, monkeypatch, "cat $PCM")
    with AudioReader(path, block_frames=300) as reader:
        assert (reader.sample_rate, reader.channels, reader.frames) == (8000, 2, None)
        assert reader.info.seconds == 0.25 and reader.info.format.startswith("ffmpeg")
        np.testing.assert_array_equal(np.concatenate(list(reader), 1), expected)
    arguments = (tmp_path / "ffmpeg.args").read_text()
    assert f"-i {path} " in arguments and "-f f32le -" in arguments


@pytest.mark.parametrize(
    "script, duration, message",
    [
        (
            "echo broken box >&2; head -c 8000 $PCM; exit 1",
            "0.25",
            "(ffmpeg: broken box): only 0.12 of 0.25 s",
        ),
        ("echo eof >&2; cat $PCM", "9.0", "(ffmpeg: eof): only 0.25 of 9.00 s"),
        ("exit 0", "0.25", "no audio in it (0 samples)"),
    ],
)
def test_ffmpeg_failures(tmp_path, monkeypatch, script, duration, message):
    path, _ = fake_ffmpeg(tmp_path, monkeypatch, script, duration=duration)
    assert message in complaint(path)


def test_ffmpeg_finds_nothing_either(tmp_path, monkeypatch):
    path, _ = fake_ffmpeg(tmp_path, monkeypatch, "cat $PCM", stream="")
    text = complaint(path)
    assert "libsndfile could not read it (" in text and text.endswith("nor could ffmpeg (no audio track)")
    (tmp_path / "ffprobe").write_text("#!/bin/sh\necho moov atom not found >&2; exit 1\n")
    assert complaint(path).endswith("nor could ffmpeg (moov atom not found)")


def test_leaving_early_ends_ffmpeg(tmp_path, monkeypatch):
    path, _ = fake_ffmpeg(tmp_path, monkeypatch, "cat $PCM; exec sleep 60", duration="N/A")
    with AudioReader(path, 100) as reader:
        assert reader.info.seconds is None
        process = reader._source._process
        next(reader)
    assert process.poll() is not None
    with AudioReader(path, 100):
        pass
