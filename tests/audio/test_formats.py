"""MP3, Ogg and Opus: aligned to the sample, at the rate and bit rate that was asked for; samples beyond full scale."""

import os
import tempfile
import tracemalloc

import numpy as np
import pytest
import soundfile

from ussfast.audio import AudioWriter, OutputFormat, read, resample, stem_files
from ussfast.audio.formats import RATES, file_rate, mp3_bitrates
from ussfast.errors import InputError, OutputError

LOSSY = ("mp3", "ogg", "opus")


def sound(rate, channels=1, frames=None, seed=0):
    """Noise that falls with frequency up to 0.3 of the rate, as codecs are made for; peak 0.9."""
    frames = rate * 2 + 137 if frames is None else frames
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal((channels, frames)))
    hz = np.fft.rfftfreq(frames, 1 / rate)
    wave = np.fft.irfft(spectrum / np.sqrt(np.maximum(hz, 20)) * (hz < 0.3 * rate), frames)
    return (0.9 * wave / np.abs(wave).max()).astype(np.float32)


def write(path, rate, audio, output=None, block=1000):
    with AudioWriter(path, rate, len(audio), output) as writer:
        for start in range(0, audio.shape[1], block):
            writer.write(audio[:, start : start + block])
    return writer


def delay(there, back, rate):
    """How many samples `back` comes later, to 1/32, by the correlation below a quarter of the rate."""
    size = 1 << int(np.ceil(np.log2(2 * max(len(there), len(back)))))
    cross = np.fft.rfft(back, size) * np.fft.rfft(there, size).conj()
    cross[np.fft.rfftfreq(size, 1 / rate) > rate / 4] = 0
    lag = int(np.argmax(np.fft.irfft(cross, size * 32)))
    return (lag if lag < size * 16 else lag - size * 32) / 32


def snr(there, back):
    return 10 * np.log10(np.sum(there**2) / np.sum((there - back) ** 2))


def test_the_delay_that_is_measured_is_there():
    audio = sound(16000)[0]
    late = np.concatenate((np.zeros(3, np.float32), audio[:-3]))
    assert (delay(audio, audio, 16000), delay(audio, late, 16000), delay(late, audio, 16000)) == (0, 3, -3)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "rate"),
    [(name, rate) for name in ("mp3", "opus") for rate in RATES[name]]
    + [("ogg", rate) for rate in (8000, 22050, 32000, 44100, 48000, 96000)],
)
def test_what_comes_back_is_as_long_and_not_a_sample_late(tmp_path, name, rate, channels):
    path, audio = tmp_path / f"a.{name}", sound(rate, channels)
    writer = write(path, rate, audio)
    assert (writer.frames, writer.file_rate, writer.bit_depth, writer.clipped) == (audio.shape[1], rate, None, 0)
    assert os.listdir(tmp_path) == [path.name]
    back, got = read(path)
    assert (got, back.shape) == (rate, audio.shape)
    for one, other in zip(audio, back, strict=True):
        assert delay(one, other, rate) == 0
        assert snr(one, other) > 10  # aligned and the right channel: a shift by one sample alone costs more


@pytest.mark.parametrize(
    ("name", "rate", "becomes"),
    [("opus", 44100, 48000), ("opus", 32000, 48000), ("opus", 22050, 24000), ("opus", 96000, 48000),
     ("mp3", 37800, 44100), ("mp3", 6000, 8000), ("mp3", 96000, 48000), ("ogg", 384000, 200000)],
)  # fmt: skip
def test_a_rate_that_the_codec_does_not_have_is_converted(tmp_path, name, rate, becomes):
    audio = sound(rate, 2)
    path = tmp_path / f"a.{name}"
    with stem_files([path], rate, 2, OutputFormat()) as files:
        for start in range(0, audio.shape[1], 4999):
            files.write([audio[:, start : start + 4999]])
    says = f"{name} cannot have {rate} Hz: the files have {becomes} Hz"
    assert files.written() == [path] and files.written().warnings == (says,)
    back, got = read(path)
    expected = resample(audio, rate, becomes)
    assert got == becomes == file_rate(name, rate) and back.shape == expected.shape
    assert delay(expected[0], back[0], becomes) == 0 and delay(expected[1], back[1], becomes) == 0


@pytest.mark.parametrize("frames", [1, 7, 500, 1200])
@pytest.mark.parametrize("name", LOSSY)
def test_short_audio_keeps_its_length(tmp_path, name, frames):
    write(tmp_path / f"a.{name}", 48000, sound(48000, 2)[:, :frames])
    assert read(tmp_path / f"a.{name}")[0].shape == (2, frames)


def test_one_large_block(tmp_path):
    """libvorbis takes a write onto its stack: as one write, these samples would crash it."""
    write(tmp_path / "a.ogg", 8000, np.zeros((1, 6_000_000), np.float32), block=6_000_000)
    assert read(tmp_path / "a.ogg")[0].shape == (1, 6_000_000)


def kilobits(path):
    info = soundfile.info(path)
    return path.stat().st_size * 8 / 1000 / (info.frames / info.samplerate)


@pytest.mark.parametrize(
    ("name", "rate", "channels", "bitrate"),
    [("mp3", 44100, 2, 320), ("mp3", 44100, 2, 128), ("mp3", 44100, 1, 56), ("mp3", 22050, 1, 160),
     ("mp3", 16000, 1, 40), ("mp3", 8000, 1, 64), ("mp3", 48000, 2, 192), ("opus", 48000, 1, 24),
     ("opus", 48000, 2, 128), ("opus", 48000, 2, 510), ("opus", 16000, 1, 32)],
)  # fmt: skip
def test_bitrates(tmp_path, name, rate, channels, bitrate):
    path = tmp_path / f"a.{name}"
    write(path, rate, sound(rate, channels, rate * 10), OutputFormat(bitrate=bitrate))
    # Opus aims at a mean. MP3: its header frames, and the padding at the end.
    assert kilobits(path) == pytest.approx(bitrate, rel=0.15 if name == "opus" else 0.03)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES["mp3"])
def test_every_bitrate_of_mp3_keeps_the_length(tmp_path, rate, channels):
    audio, path = sound(rate, channels, rate // 4 + 11), tmp_path / "a.mp3"
    found = mp3_bitrates(rate, channels)
    assert len(found) >= 5
    for bitrate in found:
        write(path, rate, audio, OutputFormat(bitrate=bitrate))
        assert read(path)[0].shape == audio.shape


@pytest.mark.parametrize("name", ["mp3", "ogg"])
def test_better_quality_takes_more_and_is_better(tmp_path, name):
    audio, found = sound(44100, 2, 44100 * 5), []
    for quality in (0, 3, 8, 10, None):
        path = tmp_path / f"{quality}.{name}"
        write(path, 44100, audio, OutputFormat(quality=quality))
        found.append((path.stat().st_size, snr(audio, read(path)[0])))  # of the same length
    assert found[:4] == sorted(found[:4]) and len(set(found[:4])) == 4
    assert found[4][0] == found[2][0]  # 8 is the default


@pytest.mark.parametrize(
    ("settings", "path", "message"),
    [
        ({"quality": 11}, "", "quality must lie between 0 and 10, not at 11"),
        ({"quality": float("nan")}, "", "quality must lie between 0 and 10, not at nan"),
        ({"quality": 5, "bitrate": 128}, "", "exclude each other"),
        ({"clip": "wrap"}, "", "clip must be one of clamp, rescale, none, not 'wrap'"),
        ({"format": "m4a"}, "", "^'m4a' is not a format to write: wav, flac, mp3, ogg and opus are"),
        ({"format": "wav", "bitrate": 128}, "", "^wav has no bitrate to choose: mp3 and opus have"),
        ({"format": "ogg", "bitrate": 128}, "", "ogg has no bitrate to choose"),
        ({"format": "opus", "quality": 5}, "", "opus has no quality to choose: mp3 and ogg have"),
        ({"format": "mp3", "bit_depth": 16}, "", "mp3 of 16 bits: bit_depth is for wav and flac"),
        ({"format": "flac", "clip": "none"}, "", "PCM holds nothing beyond full scale"),
        ({"bit_depth": 16, "clip": "none"}, "a.wav", "^PCM holds nothing beyond full scale"),
        ({"quality": 5}, "a.flac", "^flac has no quality to choose"),
        ({"bitrate": 100}, "a.mp3", r"an MP3 of 44100 Hz cannot have 100 kbit/s: one of \[64, 80"),
        ({"bitrate": 5}, "a.opus", "bitrate of opus must be 12 to 512 kbit/s here, not 5"),
        ({"bitrate": 513}, "a.opus", "bitrate of opus must be 12 to 512 kbit/s here, not 513"),
    ],
)
def test_settings_that_cannot_be(tmp_path, settings, path, message):
    with pytest.raises(InputError, match=message):
        AudioWriter(tmp_path / path, 44100, 2, OutputFormat(**settings))
    assert os.listdir(tmp_path) == []


def test_settings_that_cannot_be_for_this_audio(tmp_path):
    with pytest.raises(InputError, match=r"an MP3 of 22050 Hz cannot have 320 kbit/s: one of \[56, 64"):
        AudioWriter(tmp_path / "a.mp3", 22050, 2, OutputFormat(bitrate=320))
    for name in LOSSY:
        with pytest.raises(InputError, match=f"{name} holds 1 to 2 channels, not 3"):
            AudioWriter(tmp_path / f"a.{name}", 48000, 3)
    with pytest.raises(InputError, match="bit_depth belongs into the OutputFormat"):
        AudioWriter(tmp_path / "a.wav", 48000, 2, OutputFormat(), 16)
    assert os.listdir(tmp_path) == []


LOUD = np.array([[0.5, 1.5, -2.0, 1.0, -1.0, 0.25]], np.float32)


@pytest.mark.parametrize(
    ("clip", "bits", "expected", "clipped"),
    [
        (None, 32, LOUD, 0),
        ("none", 32, LOUD, 0),
        ("clamp", 32, LOUD.clip(-1, 1), 2),
        (None, 16, LOUD.clip(-1, 1 - 2**-15), 2),
        ("clamp", 24, LOUD.clip(-1, 1 - 2**-23), 2),
    ],
)
def test_clamp_and_none(tmp_path, clip, bits, expected, clipped):
    writer = write(tmp_path / "a.wav", 8000, LOUD, OutputFormat(bit_depth=bits, clip=clip))
    assert writer.clipped == clipped
    np.testing.assert_array_equal(read(tmp_path / "a.wav")[0], expected)


@pytest.mark.parametrize("name", LOSSY)
def test_clamp_and_none_before_a_codec(tmp_path, name):
    audio = sound(48000, 1, 48000)
    audio[:, 20000:20400] *= 3
    beyond = int(np.count_nonzero(np.abs(audio) > 1))
    path = tmp_path / f"a.{name}"
    with stem_files([path], 48000, 1, OutputFormat()) as files:
        files.write([audio])
    assert beyond and files.written().warnings == (f"{path.name}: {beyond} samples beyond full scale were clamped",)
    clamped = read(path)[0]
    assert snr(audio.clip(-1, 1), clamped) > snr(audio, clamped)
    with stem_files([path], 48000, 1, OutputFormat(clip="none")) as files:
        files.write([audio])
    assert files.written().warnings == ()
    whole = read(path)[0]
    assert snr(audio, whole) > snr(audio.clip(-1, 1), whole)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("bits", [32, 24, 16])
def test_rescaled_stems_still_add_up(tmp_path, bits, known):
    """By one factor: the sum of files is the factor times the mixture, and no sample is clamped."""
    stems = np.stack([sound(8000, 2, 150_000, seed) for seed in (0, 1, 2)])
    stems[1] *= 2
    paths = [tmp_path / f"{index}.wav" for index in range(3)]
    peak = float(np.abs(stems).max()) if known else None
    with stem_files(paths, 8000, 2, OutputFormat(bit_depth=bits, clip="rescale"), peak=peak) as files:
        for start in range(0, 150_000, 70_001):
            files.write(stems[..., start : start + 70_001])
            assert len([name for name in os.listdir(tmp_path) if not name.startswith(".")]) == 0
    gain = (1 - 2**-15) / np.abs(stems).max()
    assert gain < 0.6 and files.gain == pytest.approx(gain, rel=1e-6)
    (says,) = files.written().warnings
    assert says == f"all stems scaled by {gain:.4f} (-5.1 dB): the highest peak was {1 / gain:.3f} of full scale"
    assert sorted(os.listdir(tmp_path)) == [path.name for path in paths]
    got = np.stack([read(path)[0] for path in paths])
    np.testing.assert_allclose(got, stems * gain, atol=2.0**-bits + 1e-7, rtol=0)
    assert np.abs(got).max() == pytest.approx(1 - 2**-15, abs=1e-7)
    np.testing.assert_allclose(got.sum(0), stems.sum(0) * gain, atol=3 * 2.0**-bits + 3e-7, rtol=0)


@pytest.mark.parametrize("known", [False, True])
def test_rescale_leaves_what_fits(tmp_path, known):
    audio = sound(8000, 1, 5000)
    with stem_files([tmp_path / "a.wav"], 8000, 1, OutputFormat(clip="rescale"), peak=0.9 if known else None) as files:
        files.write([audio])
    np.testing.assert_array_equal(read(tmp_path / "a.wav")[0], audio)
    assert files.gain == 1 and files.written().warnings == ()


def test_rescale_takes_memory_that_does_not_grow_with_the_duration(tmp_path):
    peaks = []
    for seconds in (100, 800):
        tracemalloc.start()
        with stem_files([tmp_path / "a.wav"], 8000, 2, OutputFormat(clip="rescale")) as files:
            for second in range(seconds):
                files.write([np.full((2, 8000), second % 10 / 2, np.float32)])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 8e6  # bytes; the longer file has 51 MB


def test_rescale_that_fails_leaves_nothing(tmp_path, monkeypatch):
    paths, audio = [tmp_path / "a.wav", tmp_path / "b.wav"], sound(8000, 1, 5000)
    output = OutputFormat(clip="rescale")
    with pytest.raises(KeyError), stem_files(paths, 8000, 1, output) as files:
        files.write([audio, audio])
        raise KeyError
    with pytest.raises(InputError, match="NaN or infinity"), stem_files(paths, 8000, 1, output) as files:
        files.write([audio, audio * np.nan])
    # Nothing is left either of a disk that is full while the samples wait.
    full = lambda **_: os.fdopen(os.open("/dev/full", os.O_RDWR), "w+b")  # noqa: E731
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with (
        pytest.raises(OutputError, match="could not be written: No space left"),
        stem_files(paths, 8000, 1, output) as files,
    ):
        files.write([audio, audio])
    assert os.listdir(tmp_path) == []
