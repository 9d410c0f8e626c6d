"""Windows that are computed together give what they give alone, joined in order, for files, jobs and streams."""

import json

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, RATE, SHORT, STEREO, TUSS, TUSS_SFC, UNCONDITIONAL, noise, tiny_directory, tiny_model

from ussfast import InputError, Separator
from ussfast.audio import OutputFormat
from ussfast.audio.jobs import plan
from ussfast.cli.main import main
from ussfast.cli.many_files import separate_all
from ussfast.engine import batching
from ussfast.errors import AudioError
from ussfast.long_audio.policy import SegmentPolicy
from ussfast.long_audio.windows import Batch, FadeStitcher, separate_blocks


def separators(config=TUSS, batch=3, **settings):
    settings = {"device": "cpu", "prompts": getattr(config, "prompts", ())[:2], **SHORT} | settings
    return [Separator.from_model(tiny_model(config), batch=count, **settings) for count in (1, batch)]


def sizes_of(separator, network="separate"):
    """How many items each call of the model gets."""
    sizes, real = [], getattr(separator.engine.model, network)
    setattr(separator.engine.model, network, lambda x, *rest: sizes.append(x.shape[0]) or real(x, *rest))
    return sizes


def partly_silent(channels, samples):
    audio = noise(channels, samples)
    audio[0, samples // 3 : 2 * samples // 3] = 0
    return audio


@pytest.mark.parametrize("stitch", ["fade", "published"])
@pytest.mark.parametrize("config", [TUSS, TUSS_SFC, UNCONDITIONAL, STEREO], ids=lambda c: type(c).__name__)
def test_any_batch_gives_the_same(config, stitch):
    alone, together = separators(config, stitch=stitch)
    sizes = sizes_of(together)
    for channels, samples in ((2, 20001), (2, 3199), (1, 9000), (2, 2)):
        audio = partly_silent(channels, samples)
        expected, got = alone.separate(audio, RATE).stems, together.separate(audio, RATE).stems
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1e-3, np.abs(expected).max()))
    assert max(sizes) == (3 if config is STEREO else 6)
    assert config is STEREO or {4, 5} & set(sizes)  # some windows with a silent channel


def test_equal_prompts_live_windows_and_files(tmp_path):
    alone, together = separators(prompts=("sfx", "sfx", "speech"), overlap=0.3, look_ahead=0.1, batch=4)
    audio, path = partly_silent(2, 9000), tmp_path / "in.wav"
    expected = alone.separate(audio, RATE).stems
    np.testing.assert_allclose(together.separate(audio, RATE).stems, expected, atol=1e-6)
    soundfile.write(path, audio.T, RATE, subtype="FLOAT")
    for stem, file in zip(expected, together.separate_file(path, tmp_path / "out"), strict=True):
        np.testing.assert_allclose(soundfile.read(file, dtype="float32")[0].T, stem, atol=1e-6)


def test_sessions_with_windows_are_served_too():
    alone, together = separators(overlap=0.3, look_ahead=0.1)
    audio = noise(1, 6000)
    outs = []
    for separator in (alone, together):
        session = separator.session(RATE, channels=1)
        parts = [session.push(chunk).stems for chunk in np.array_split(audio, 7, 1)]
        outs.append(np.concatenate([*parts, session.flush().stems], -1))
    np.testing.assert_allclose(outs[1], outs[0], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(0, 900), st.integers(1, 200), st.sampled_from(["fade", "published"]),
    st.sampled_from([None, 0.0, 0.1]),
)  # fmt: skip
def test_stitchers_join_batches_in_order(size, samples, block, stitch, look_ahead):
    policy = SegmentPolicy(0.8, 0.5, stitch, look_ahead=look_ahead if stitch == "fade" else None)
    audio = np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)

    def model(window):  # depends on where the window lies, so that wrong joins show
        return np.stack([window * np.linspace(0.5, 1, window.shape[1], dtype=np.float32), -window])

    calls = []

    def several(windows):
        calls.append(len(windows))
        return [model(window) for window in windows]

    def run(batch):
        blocks = [audio[:, at : at + block] for at in range(0, samples, block)]
        return [np.zeros((2, 2, 0)), *separate_blocks(blocks, model, 100, policy, batch=batch)]

    np.testing.assert_array_equal(np.concatenate(run(Batch(size, several)), -1), np.concatenate(run(None), -1))
    assert all(count == size for count in calls[:-1]) and max(calls, default=0) <= size


def test_a_stitcher_goes_on_from_a_state_with_windows_that_wait():
    audio = noise(1, 900)
    policy = SegmentPolicy(0.8, 0.5)
    cut = [FadeStitcher(lambda x: x[None], 100, policy, batch=Batch(3, lambda w: [x[None] for x in w])) for _ in "ab"]
    parts = cut[0].push(audio[:, :430])
    cut[1].load(cut[0].state)
    parts += cut[1].push(audio[:, 430:]) + cut[1].flush()
    np.testing.assert_allclose(np.concatenate(parts, -1)[0], audio, atol=1e-6)


def test_lack_of_memory_of_one_window_shortens_the_segment():
    alone, together = separators(prompts=("speech",))
    audio, lengths = noise(1, 12000), []
    expected = alone.separate(audio, RATE).stems
    real = together.engine.model.separate

    def small(x, *rest):
        lengths.append(x.shape)
        if x.shape[1] > 2000:
            raise MemoryError
        return real(x, *rest)

    together.engine.model.separate = small
    out = together.separate(audio, RATE).stems
    assert out.shape == expected.shape and np.abs(out).max() > 0
    assert lengths[0] == (3, 3200) and (1, 3200) in lengths and {shape[1] for shape in lengths} == {3200, 1600}


@pytest.mark.parametrize("config, network", [(TUSS, "separate"), (CAUSAL, "advance")], ids=["windows", "chunks"])
def test_files_of_several_jobs(config, network, tmp_path, monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 0.2)
    alone, together = separators(config, prompts=("speech", "sfx"), batch=4)
    sizes, files = sizes_of(together, network), [tmp_path / f"{name}.wav" for name in "abc"]
    for number, path in enumerate(files):
        soundfile.write(path, noise(1 + number % 2, 15000 + 3000 * number, seed=number).T, RATE, subtype="FLOAT")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    options = {"template": "{name}/{label}.wav", "residual": False, "format": OutputFormat()}
    jobs, _ = plan([*files, tmp_path / "broken.wav"], tmp_path / "out", options["template"])
    results = separate_all(together, jobs, jobs_at_once=3, quiet=True, options=options)
    for path, result in zip(files, results, strict=False):
        assert result.error is None
        for stem, file in zip(alone.separate(path).stems, result.outputs, strict=True):
            np.testing.assert_allclose(soundfile.read(file, dtype="float32", always_2d=True)[0].T, stem, atol=1e-5)
    assert isinstance(results[3].error, AudioError) and max(sizes) >= 4


def test_settings(tmp_path, capsys):
    with pytest.raises(InputError, match="batch must be a whole number from 1 to 256, got 0"):
        Separator.from_model(tiny_model(), batch=0)
    soundfile.write(tmp_path / "in.wav", noise(1, 9000).T, RATE, subtype="FLOAT")
    model, out = str(tiny_directory(tmp_path)), str(tmp_path / "out")
    command = ["separate", str(tmp_path / "in.wav"), "-m", model, "-p", "speech", "-o", out, "--segment", "0.4"]
    with pytest.raises(SystemExit) as exit:
        main([*command, "--batch", "2", "--json", "--device", "cpu"])
    assert exit.value.code == 0 and json.loads(capsys.readouterr().out)[0]["error"] is None
    for wrong in ("0", "two"):
        with pytest.raises(SystemExit) as exit:
            main([*command, "--batch", wrong])
        assert exit.value.code == 2
