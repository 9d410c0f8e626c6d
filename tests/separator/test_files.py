"""Files in, files out, through the public engine: the pipeline gives what `separate` and `save` give."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
from tiny import RATE, UNCONDITIONAL, files_in, noise, tiny_model

from ussfast import AudioError, InputError, OutputError, OutputFormat, PromptError, Separator

SHORT = {"segment": 0.4, "overlap": 0.15}


@pytest.fixture(scope="module")
def separator():
    return Separator.from_model(tiny_model(), ("speech", "sfx", "sfx"), device="cpu", **SHORT)


@pytest.fixture(scope="module")
def unconditional():
    return Separator.from_model(tiny_model(UNCONDITIONAL), device="cpu", **SHORT)


def load(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def recording(folder, channels=2, samples=20001, rate=RATE, name="in.wav", subtype="FLOAT"):
    path = folder / name
    soundfile.write(path, noise(channels, samples).T, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
@pytest.mark.parametrize(("channels", "samples"), [(1, 1), (2, 2), (1, 7), (2, 30011), (5, 4000)])
def test_separate_file_writes_what_save_writes(separator, tmp_path, rate, channels, samples):
    path = recording(tmp_path, channels, samples, rate)
    written = separator.separate_file(path, tmp_path / "streamed", residual=True)
    out = separator.separate(path)
    saved = out.save(tmp_path / "saved", residual=True)
    names = ["speech.wav", "sfx-1.wav", "sfx-2.wav", "residual.wav"]
    assert [p.name for p in written] == [p.name for p in saved] == names
    assert files_in(tmp_path / "streamed") == sorted(names)
    for one, other in zip(written, saved, strict=True):
        info = soundfile.info(one)
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (rate, channels, samples, "FLOAT")
        np.testing.assert_allclose(load(one), load(other), atol=1e-5)
    stems = sum(load(p) for p in written)
    np.testing.assert_allclose(stems, out.mixture, atol=1e-5)
    np.testing.assert_array_equal(load(saved[3]), out.residual)


@pytest.mark.parametrize("stitch", ["fade", "published"])
def test_a_long_file_through_many_blocks(tmp_path, stitch):
    separator = Separator.from_model(
        tiny_model(), ("speech", "sfx"), device="cpu", segment=2.0, overlap=0.5, stitch=stitch
    )
    path = recording(tmp_path, 1, 250_000, 16000)  # several blocks of the decoder, several windows
    seen = []
    written = separator.separate_file(path, tmp_path, residual=True, progress=lambda *now: seen.append(now))
    out = separator.separate(path)
    for stem, file in zip([*out.stems, out.residual], written, strict=True):
        np.testing.assert_allclose(load(file), stem, atol=1e-5)
    seconds = [done for done, _ in seen]
    assert len(seen) > 5 and seconds == sorted(seconds) and {total for _, total in seen} == {250_000 / 16000}
    assert seconds[-1] == pytest.approx(250_000 / 16000, abs=1e-3)


def test_unconditional_files(unconditional, tmp_path):
    written = unconditional.separate_file(recording(tmp_path), tmp_path)
    assert [p.name for p in written] == ["source-1.wav", "source-2.wav", "source-3.wav"]
    with pytest.raises(PromptError):
        unconditional.separate_file(tmp_path / "in.wav", tmp_path, prompts="speech")


@pytest.mark.parametrize("value", [0.0, 0.3, -0.7, 1.0])
def test_a_file_without_sound_gives_zeros(separator, tmp_path, value):
    soundfile.write(tmp_path / "in.wav", np.full((9000, 2), value), RATE, subtype="FLOAT")
    written = separator.separate_file(tmp_path / "in.wav", tmp_path / "out", residual=True)
    for path in written[:3]:
        assert load(path).shape == (2, 9000) and not load(path).any()
    np.testing.assert_array_equal(load(written[3]), np.full((2, 9000), np.float32(value)))


def test_existing_outputs_can_be_skipped(separator, tmp_path):
    path = recording(tmp_path)

    def separate(**settings):
        """Whether anything was done."""
        written = separator.separate_file(path, tmp_path / "out", skip_existing=True, **settings)
        assert all(load(p).shape == (2, 20001) for p in written)
        return written.seconds is not None

    assert separate() and not separate()
    (tmp_path / "out/speech.wav").unlink()  # one is missing: all are made
    assert separate() and not separate()
    # Asking for the residual too is asking for more than there is.
    assert separate(residual=True) and not separate(residual=True)
    assert separate() and not separate()
    separator.policy, before = replace(separator.policy, segment=0.5), separator.policy
    try:
        assert separate() and not separate()
    finally:
        separator.policy = before
    path.unlink()
    with pytest.raises(AudioError, match="no such file"):
        separate()


def test_the_input_is_not_overwritten(separator, tmp_path):
    path = recording(tmp_path, name="speech.wav")
    before = path.read_bytes()
    with pytest.raises(InputError, match="an output would overwrite the input"):
        separator.separate_file(path, tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="an output would overwrite the input"):
        separator.separate_file(path, tmp_path / "link")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("template", "format", "expected"),
    [
        ("{name}/{label}.wav", None, ["in/speech.wav", "in/sfx-1.wav", "in/sfx-2.wav"]),
        ("{index:02d} {label}.flac", None, ["01 speech.flac", "02 sfx-1.flac", "03 sfx-2.flac"]),
        ("{label}", None, ["speech.wav", "sfx-1.wav", "sfx-2.wav"]),
        ("v1.5-{label}", None, ["v1.5-speech.wav", "v1.5-sfx-1.wav", "v1.5-sfx-2.wav"]),
        ("{label}.WAV", None, ["speech.WAV", "sfx-1.WAV", "sfx-2.WAV"]),
        ("{label}.wav", "flac", ["speech.flac", "sfx-1.flac", "sfx-2.flac"]),
        ("{index}", None, ["1.wav", "2.wav", "3.wav"]),
    ],
)
def test_templates(separator, tmp_path, template, format, expected):
    path = recording(tmp_path, samples=500)
    written = separator.separate_file(path, tmp_path / "out", template=template, format=format)
    assert [str(p.relative_to(tmp_path / "out")) for p in written] == expected
    assert all(load(p).shape == (2, 500) for p in written)
    kind = "FLAC" if expected[0].endswith("flac") else "WAV"
    assert {soundfile.info(p).format for p in written} == {kind}


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("same.wav", "gives several stems the same file: put {label} into it"),
        ("{stem}.wav", "may use {label}, {name}, {index} and {suffix} only"),
        ("{label.x}.wav", "may use {label}, {name}, {index} and {suffix} only"),
        ("{label.wav", "may use {label}, {name}, {index} and {suffix} only"),
        ("../{label}.wav", "must stay inside the output directory"),
        ("/tmp/{label}.wav", "must stay inside the output directory"),
        ("", "must stay inside the output directory"),
    ],
)
def test_templates_that_cannot_work(separator, tmp_path, template, says):
    path = recording(tmp_path, samples=500)
    out = separator.separate(path)
    for attempt in (
        lambda: separator.separate_file(path, tmp_path / "out", template=template),
        lambda: out.save(tmp_path / "out", template),
    ):
        with pytest.raises(InputError) as caught:
            attempt()
        assert says in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("format", "bit_depth", "subtype", "step"),
    [("wav", None, "FLOAT", 0), ("wav", 24, "PCM_24", 2**-23), ("wav", 16, "PCM_16", 2**-15),
     ("flac", None, "PCM_24", 2**-23), ("flac", 16, "PCM_16", 2**-15)],
)  # fmt: skip
def test_formats_and_bit_depths(separator, tmp_path, format, bit_depth, subtype, step):
    path = recording(tmp_path)
    out = separator.separate(path)
    streamed = separator.separate_file(path, tmp_path / "a", format=format, bit_depth=bit_depth)
    saved = out.save(tmp_path / "b", format=format, bit_depth=bit_depth)
    for stem, *files in zip(out.stems, streamed, saved, strict=True):
        for file in files:
            assert soundfile.info(file).subtype == subtype and file.suffix == f".{format}"
            np.testing.assert_allclose(load(file), np.clip(stem, -1, 1 - step), atol=step / 2 + 1e-6)


@pytest.mark.parametrize(("format", "rate"), [("mp3", RATE), ("ogg", RATE), ("opus", RATE), ("opus", 11025)])
def test_lossy_formats(separator, tmp_path, format, rate):
    """Streamed and saved are the same sound, as long as the input, up to the codec's error in each."""
    path, file_rate = recording(tmp_path, rate=rate), 12000 if rate == 11025 else rate
    output = OutputFormat(format, clip="rescale")
    streamed = separator.separate_file(path, tmp_path / "a", residual=True, format=output)
    saved = separator.separate(path).save(tmp_path / "b", residual=True, format=output)
    assert [p.name for p in streamed] == [p.name for p in saved] and len(saved) == 4
    converted = [f"{format} cannot have {rate} Hz: the files have {file_rate} Hz"] if file_rate != rate else []
    assert list(streamed.warnings) == list(saved.warnings) == converted
    assert (streamed.seconds, streamed.sample_rate, streamed.channels) == (20001 / rate, rate, 2)
    for one, other in zip(streamed, saved, strict=True):
        info = soundfile.info(one)
        assert (info.samplerate, info.frames, info.channels) == (file_rate, round(20001 * file_rate / rate), 2)
        error = load(one) - load(other)
        assert np.sum(error**2) < 1e-3 * np.sum(load(other) ** 2)


@pytest.mark.parametrize("bit_depth", [16, 32])
def test_rescale_is_one_factor_for_all_stems(separator, tmp_path, bit_depth):
    path = tmp_path / "loud.wav"
    audio = noise(2, 30011)
    soundfile.write(path, (audio * 3 / np.abs(audio).max()).T, RATE, subtype="FLOAT")
    out, output = separator.separate(path), OutputFormat(bit_depth=bit_depth, clip="rescale")
    tracks = [*out.stems, out.residual]
    gain = (1 - 2**-15) / max(np.abs(track).max() for track in tracks)
    assert gain < 0.9
    streamed = separator.separate_file(path, tmp_path / "a", residual=True, format=output)
    saved = out.save(tmp_path / "b", residual=True, format=output)
    for written in (streamed, saved):
        assert written.warnings[0].startswith(f"all stems scaled by {gain:.4f} (") and len(written.warnings) == 1
        for file, track in zip(written, tracks, strict=True):
            np.testing.assert_allclose(load(file), gain * track, atol=2.0**-bit_depth + 2e-5)
        assert len(files_in(written[0].parent)) == 4


def test_formats_that_cannot_be(separator, tmp_path):
    path = recording(tmp_path, samples=500)
    for settings in ({"format": "m4a"}, {"format": "flac", "bit_depth": 32}, {"bit_depth": 20}):
        with pytest.raises(InputError, match="bit_depth must be one of|not a format to write"):
            separator.separate_file(path, tmp_path / "out", **settings)
    assert not list((tmp_path / "out").glob("*"))


def test_an_output_directory_that_is_a_file(separator, tmp_path):
    path = recording(tmp_path, samples=500)
    (tmp_path / "taken").write_text("a file")
    for attempt in (
        lambda: separator.separate_file(path, tmp_path / "taken"),
        lambda: separator.separate(path).save(tmp_path / "taken" / "deeper"),
    ):
        with pytest.raises(OutputError, match="cannot be used for output"):
            attempt()
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_failure_in_the_middle_leaves_what_was_there(separator, tmp_path):
    audio = noise(1, 200_000)
    audio[0, 190_000] = np.nan
    soundfile.write(tmp_path / "in.wav", audio.T, RATE, subtype="FLOAT")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/speech.wav").write_bytes(b"from before")
    with pytest.raises(AudioError, match=r"in\.wav: contains NaN, first at 23\.750 s"):
        separator.separate_file(tmp_path / "in.wav", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["speech.wav"]
    assert (tmp_path / "out/speech.wav").read_bytes() == b"from before"


def test_a_failing_progress_stops_everything(separator, tmp_path):
    class Enough(Exception):
        pass

    def stop(done, total):
        raise Enough

    with pytest.raises(Enough):
        separator.separate_file(recording(tmp_path), tmp_path / "out", progress=stop)
    assert not list((tmp_path / "out").iterdir())
