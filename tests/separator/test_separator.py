"""The public engine on arrays: shapes, rates, prompts, silence; with tiny models of random weights."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, PROMPTS, RATE, SHORT, UNCONDITIONAL, noise, tiny_directory, tiny_model

from ussfast import InputError, PromptError, Separator

IN_MEMORY = Separator.from_model(tiny_model(), "speech", device="cpu", **SHORT)


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory):
    return Separator(tiny_directory(tmp_path_factory.mktemp("models"), UNCONDITIONAL), device="cpu", **SHORT)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 96000])
@pytest.mark.parametrize(("channels", "samples"), [(1, 1), (1, 2), (2, 7), (5, 333), (2, 4801), (1, 12345)])
def test_rate_length_and_channels_are_those_of_the_input(separator, rate, channels, samples):
    audio = noise(channels, samples)
    out = separator.separate(audio, rate)
    assert out.stems.shape == (2, channels, samples) and out.stems.dtype == np.float32
    assert out.sample_rate == rate and out.labels == ("speech", "sfx")
    assert np.isfinite(out.stems).all()
    np.testing.assert_array_equal(out.mixture, audio)
    np.testing.assert_allclose(out.stems.sum(0) + out.residual, audio, atol=1e-6)
    np.testing.assert_array_equal(out["sfx"], out.stems[1])


def test_stems_are_not_trivial_and_follow_the_prompts(separator):
    audio = noise(1, 4000)
    out = separator.separate(audio, RATE)
    assert min(np.abs(out.stems[i]).max() for i in range(2)) > 1e-4
    assert np.abs(out["speech"] - out["sfx"]).max() > 1e-4
    other = separator.separate(audio, RATE, prompts=("speech", "bass"))
    assert other.labels == ("speech", "bass") and np.abs(other["bass"] - out["sfx"]).max() > 1e-4


def test_mono_may_be_given_as_a_vector(separator):
    audio = noise(1, 900)
    np.testing.assert_array_equal(separator.separate(audio[0], RATE).stems, separator.separate(audio, RATE).stems)


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", "torch", "torch int16"])
def test_the_callers_audio_is_left_alone(separator, kind):
    pcm = np.rint(noise(2, 5000) * 32768).astype(np.int16)
    audio = pcm.astype(np.float32) / 32768
    given = {
        "float32": audio, "float64": audio.astype(np.float64), "int16": pcm,
        "torch": torch.from_numpy(audio.copy()), "torch int16": torch.from_numpy(pcm.copy()),
    }[kind]  # fmt: skip
    before = np.asarray(given).copy()
    out = separator.separate(given, RATE)
    np.testing.assert_array_equal(np.asarray(given), before)
    np.testing.assert_array_equal(out.stems, separator.separate(audio, RATE).stems)
    out.mixture[:] = 0
    out.stems[:] = 0
    np.testing.assert_array_equal(np.asarray(given), before)


def test_every_channel_is_separated_by_itself(separator):
    audio = noise(3, 6000)
    out = separator.separate(audio, RATE)
    for channel in range(3):
        alone = separator.separate(audio[channel], RATE)
        np.testing.assert_allclose(out.stems[:, channel], alone.stems[:, 0], atol=1e-5)


def test_repeated_prompts_are_numbered(separator):
    prompts = ("sfx", "speech", "sfx", "sfx")
    assert separator.labels(prompts) == ("sfx-1", "speech", "sfx-2", "sfx-3")
    out = separator.separate(noise(1, 3000), RATE, prompts=prompts)
    assert out.labels == separator.labels(prompts) and len(out.stems) == 4
    np.testing.assert_array_equal(out["sfx-2"], out.stems[2])
    with pytest.raises(InputError, match="no stem 'sfx'; there are sfx-1, speech, sfx-2, sfx-3"):
        out["sfx"]
    assert separator.labels("bass") == separator.labels(["bass"]) == ("bass",)


@pytest.mark.parametrize(("prompts", "aligned"), [(("sfx", "sfx"), True), (("sfx", "speech"), False)])
def test_equal_prompts_have_one_order_in_all_channels(separator, monkeypatch, prompts, aligned):
    def separate(audio, vectors, dtype):
        tracks = torch.stack([audio, audio.abs()], 1)
        quiet = audio.abs().amax(1) < 0.9 * loudest
        tracks[quiet] = tracks[quiet].flip(1)
        return tracks

    monkeypatch.setattr(separator.engine.model, "separate", separate)
    audio = np.repeat(noise(1, 3000), 4, 0) * np.float32([[1.0], [0.5], [0.0], [0.2]])
    loudest = float(np.abs(audio).max())
    out = separator.separate(audio, RATE, prompts=prompts).stems
    np.testing.assert_array_equal(out[:, 0], [audio[0], np.abs(audio[0])])
    for channel in (1, 3):
        expected = [audio[channel], np.abs(audio[channel])]
        np.testing.assert_array_equal(out[:, channel], expected if aligned else expected[::-1])
    assert not out[:, 2].any()  # silent


def test_unconditional_models_return_all_their_sources(unconditional):
    assert unconditional.labels() == ("source-1", "source-2", "source-3")
    assert len(unconditional.prompts) == 0 and list(unconditional.prompts) == []
    assert unconditional.separate(noise(2, 7001), 16000).stems.shape == (3, 2, 7001)
    with pytest.raises(PromptError, match="'speech' was given, but this model takes no prompts"):
        unconditional.separate(noise(1, 100), RATE, prompts=("speech",))
    with pytest.raises(PromptError, match="takes no prompts"):
        Separator(unconditional.info.path, "speech")


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        (("speach",), "unknown prompt 'speach'; did you mean speech"),
        (("Speech",), "did you mean speech"),
        (("speech", "vocal"), "did you mean vocals"),
        (("zzz",), "unknown prompt 'zzz'; the model knows: speech, sfx, sfxbg"),
        (("",), "unknown prompt ''"),
    ],
)
def test_unknown_prompts_name_the_nearest(directory, separator, prompts, says):
    for attempt in (
        lambda: Separator(directory, prompts),
        lambda: separator.separate(noise(1, 10), RATE, prompts=prompts),
    ):
        with pytest.raises(PromptError, match=says) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_prompts_may_come_late_but_must_come(directory):
    late = Separator(directory, device="cpu")
    with pytest.raises(PromptError, match="no prompts given; name at least one of: speech, sfx"):
        late.separate(noise(1, 10), RATE)
    assert late.separate(noise(1, 10), RATE, prompts="bass").labels == ("bass",)


def test_prompt_bank_is_a_mapping(separator):
    bank = separator.prompts
    assert tuple(bank) == PROMPTS and len(bank) == 8 and "speech" in bank and "dog" not in bank and None not in bank
    assert dict(bank).keys() == set(PROMPTS) and bank["drums"].name == "drums" and bank["drums"].kind == "class"
    assert bank["drums"].vector.shape == (8,) and bank["drums"].vector.dtype == torch.float32
    assert torch.equal(bank["drums"].vector, separator.engine.model.prompts[3])
    assert "speech" in repr(bank)
    with pytest.raises(PromptError, match="did you mean drums"):
        bank["drumms"]


def test_silence_gives_silence(separator, unconditional):
    audio = noise(2, 5000)
    audio[1] = 0
    out = separator.separate(audio, RATE)
    assert not out.stems[:, 1].any() and out.stems[:, 0].any()
    np.testing.assert_array_equal(out.stems[:, 0], separator.separate(audio[0], RATE).stems[:, 0])
    for model in (separator, unconditional):
        assert not model.separate(np.zeros((2, 9000)), RATE).stems.any()


@settings(max_examples=60, deadline=None)
@given(value=st.floats(-1, 1, width=32), samples=st.integers(1, 7000))
def test_a_constant_gives_silence(value, samples):
    assert not IN_MEMORY.separate(np.full((1, samples), value, np.float32), RATE).stems.any()


def test_silence_before_the_first_sound(separator):
    audio = np.concatenate([np.zeros((2, 8000), np.float32), noise(2, 8000)], 1)
    out = separator.separate(audio, RATE)
    assert not out.stems[..., :4000].any() and out.stems[..., 9000:].any() and np.isfinite(out.stems).all()


def test_a_file_is_its_samples(separator, tmp_path):
    audio = noise(2, 11000)
    path = tmp_path / "in.wav"
    soundfile.write(path, audio.T, 11025, subtype="FLOAT")
    from_file, from_array = separator.separate(path), separator.separate(audio, 11025)
    np.testing.assert_array_equal(from_file.stems, from_array.stems)
    assert from_file.sample_rate == 11025
    np.testing.assert_array_equal(separator.separate(str(path)).stems, from_array.stems)
    with pytest.raises(InputError, match="sample_rate is for arrays"):
        separator.separate(path, 11025)


@pytest.mark.parametrize("arrays_in", ["separate", "session", "stream", "pool", "enroll"])
def test_arrays_need_a_rate(arrays_in):
    audio, causal = noise(1, 4000), Separator.from_model(tiny_model(CAUSAL), "speech", device="cpu")
    leave_out = {
        "separate": lambda: causal.separate(audio),
        "session": lambda: causal.session(prompts="sfx"),
        "stream": lambda: causal.stream([audio]),  # at once, not in the loop
        "pool": lambda: causal.pool(2),
        "enroll": lambda: causal.enroll("dog", [audio]),
    }
    with pytest.raises(InputError, match=r"sample_rate is missing: .*this model works at 8000, others are converted"):
        leave_out[arrays_in]()
    assert "dog" not in causal.prompts


@pytest.mark.parametrize("rate", [0, -8000, 44100.5, "44100", float("nan"), 10**9])
def test_rates_that_cannot_be(separator, rate):
    with pytest.raises(InputError, match="must be a whole number of Hz"):
        separator.separate(noise(1, 100), rate)
