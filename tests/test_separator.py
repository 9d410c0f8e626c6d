"""The public engine on arrays: shapes, rates, prompts, silence, memory; with tiny models of random weights."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PROMPTS, RATE, UNCONDITIONAL, noise, tiny_directory, tiny_model

import ussfast
from ussfast import DeviceError, InputError, PromptError, Separator
from ussfast.separator import default_policy

SHORT = {"segment": 0.4, "overlap": 0.15}  # several windows in a second of audio


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny_directory(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def separator(directory):
    return Separator(directory, ("speech", "sfx"), device="cpu", **SHORT)


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
    out = separator.separate(audio)
    assert min(np.abs(out.stems[i]).max() for i in range(2)) > 1e-4
    assert np.abs(out["speech"] - out["sfx"]).max() > 1e-4
    swapped = separator.separate(audio, prompts=("sfx", "speech"))
    assert swapped.labels == ("sfx", "speech")
    np.testing.assert_allclose(swapped["speech"], out["speech"], atol=1e-5)


def test_mono_may_be_given_as_a_vector(separator):
    audio = noise(1, 900)
    np.testing.assert_array_equal(separator.separate(audio[0]).stems, separator.separate(audio).stems)


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", "torch", "torch int16"])
def test_the_callers_audio_is_left_alone(separator, kind):
    pcm = np.rint(noise(2, 5000) * 32768).astype(np.int16)
    audio = pcm.astype(np.float32) / 32768
    given = {
        "float32": audio, "float64": audio.astype(np.float64), "int16": pcm,
        "torch": torch.from_numpy(audio.copy()), "torch int16": torch.from_numpy(pcm.copy()),
    }[kind]  # fmt: skip
    before = np.array(given)
    out = separator.separate(given)
    np.testing.assert_array_equal(np.asarray(given), before)
    np.testing.assert_array_equal(out.stems, separator.separate(audio).stems)
    out.mixture[:] = 0
    out.stems[:] = 0
    np.testing.assert_array_equal(np.asarray(given), before)


def test_every_channel_is_separated_by_itself(separator):
    audio = noise(3, 6000)
    out = separator.separate(audio)
    for channel in range(3):
        alone = separator.separate(audio[channel])
        np.testing.assert_allclose(out.stems[:, channel], alone.stems[:, 0], atol=1e-5)


def test_repeated_prompts_are_numbered(separator):
    prompts = ("sfx", "speech", "sfx", "sfx")
    assert separator.labels(prompts) == ("sfx-1", "speech", "sfx-2", "sfx-3")
    out = separator.separate(noise(1, 3000), prompts=prompts)
    assert out.labels == separator.labels(prompts) and len(out.stems) == 4
    np.testing.assert_array_equal(out["sfx-2"], out.stems[2])
    with pytest.raises(InputError, match="no stem 'sfx'; there are sfx-1, speech, sfx-2, sfx-3"):
        out["sfx"]
    assert separator.labels("bass") == separator.labels(["bass"]) == ("bass",)


def test_unconditional_models_return_all_their_sources(unconditional):
    assert unconditional.labels() == ("source-1", "source-2", "source-3")
    assert len(unconditional.prompts) == 0 and list(unconditional.prompts) == []
    assert unconditional.separate(noise(2, 7001), 16000).stems.shape == (3, 2, 7001)
    with pytest.raises(PromptError, match="'speech' was given, but this model takes no prompts"):
        unconditional.separate(noise(1, 100), prompts=("speech",))
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
        lambda: separator.separate(noise(1, 10), prompts=prompts),
    ):
        with pytest.raises(PromptError, match=says) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_prompts_may_come_late_but_must_come(directory):
    late = Separator(directory, device="cpu")
    with pytest.raises(PromptError, match="no prompts given; name at least one of: speech, sfx"):
        late.separate(noise(1, 10))
    assert late.separate(noise(1, 10), prompts="bass").labels == ("bass",)


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
    out = separator.separate(audio)
    assert not out.stems[:, 1].any() and out.stems[:, 0].any()
    np.testing.assert_array_equal(out.stems[:, 0], separator.separate(audio[0]).stems[:, 0])
    for model in (separator, unconditional):
        assert not model.separate(np.zeros((2, 9000))).stems.any()


@settings(max_examples=60, deadline=None)
@given(value=st.floats(-1, 1, width=32), samples=st.integers(1, 7000))
def test_a_constant_gives_silence(value, samples):
    separator = test_a_constant_gives_silence.separator
    assert not separator.separate(np.full((1, samples), value, np.float32)).stems.any()


test_a_constant_gives_silence.separator = Separator.from_model(tiny_model(), "speech", device="cpu", **SHORT)


def test_silence_before_the_first_sound(separator):
    audio = np.concatenate([np.zeros((2, 8000), np.float32), noise(2, 8000)], 1)
    out = separator.separate(audio)
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


@pytest.mark.parametrize("rate", [0, -8000, 44100.5, "44100", float("nan"), 10**9])
def test_rates_that_cannot_be(separator, rate):
    with pytest.raises(InputError, match="must be a whole number of Hz"):
        separator.separate(noise(1, 100), rate)


def test_windows_differ_from_one_pass_only_a_little_but_do(directory):
    audio = noise(1, 12000)
    whole = Separator(directory, "speech", segment=10, device="cpu").separate(audio).stems
    for stitch in ("fade", "published"):
        cut = Separator(directory, "speech", stitch=stitch, device="cpu", **SHORT).separate(audio).stems
        assert cut.shape == whole.shape and np.isfinite(cut).all()
        assert 0 < np.sqrt(np.mean((cut - whole) ** 2) / np.mean(whole**2)) < 0.5


def test_default_windows():
    policy = default_policy(6.0, None, None, "fade")
    assert (policy.segment, policy.overlap) == (6.0, 2.1)
    assert default_policy(2.0, None, None, "fade").segment == 6.0
    assert default_policy(9.0, None, None, "fade").segment == 9.0
    assert default_policy(6.0, 0.9, None, "fade").overlap == pytest.approx(0.3)
    assert default_policy(6.0, None, 0.0, "fade").overlap == 0.0
    published = default_policy(6.0, None, None, "published")
    assert (published.segment, published.overlap, published.stitch) == (6.0, 0.0, "published")
    with pytest.raises(InputError, match="segment"):
        default_policy(6.0, -1.0, None, "fade")


def test_bfloat16_is_close_to_float32(directory, separator):
    audio = noise(1, 6000)
    half = Separator(directory, ("speech", "sfx"), dtype="bfloat16", device="cpu", **SHORT).separate(audio).stems
    full = separator.separate(audio).stems
    assert half.dtype == np.float32
    assert 0 < np.sqrt(np.mean((half - full) ** 2) / np.mean(full**2)) < 0.1


def test_reference_and_native_agree(directory, separator):
    audio = noise(2, 6000)
    plain = Separator(directory, ("speech", "sfx"), backend="reference", device="cpu", **SHORT).separate(audio).stems
    assert np.abs(plain - separator.separate(audio).stems).max() < 1e-5 * np.abs(plain).max()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"device": "cuda:99"}, "device 'cuda:99' is not available: .* use cpu"),
        ({"device": "gpu"}, "unknown device 'gpu'; use auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, "device 'meta' is not supported"),
        ({"dtype": "float8"}, "dtype must be one of auto, float32"),
        ({"backend": "magic"}, "backend must be one of auto, native, reference, got 'magic'"),
    ],
)
def test_devices_and_settings_that_are_not_there(directory, setting, says):
    with pytest.raises(DeviceError, match=says):
        Separator(directory, "speech", **setting)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(directory):
    with pytest.raises(DeviceError, match="device 'cuda' is not available: .* has no CUDA device; use cpu"):
        Separator(directory, "speech", device="cuda")


def fits(separator, most, error):
    """A model.separate that runs out of memory for windows of more than `most` samples, and the sizes it saw."""
    real, sizes = separator.engine.model.separate, []

    def limited(audio, prompts, dtype):
        sizes.append(audio.shape[-1])
        if audio.shape[-1] > most:
            raise error
        return real(audio, prompts, dtype)

    return limited, sizes


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(ALLOCATOR), MemoryError()])
@pytest.mark.parametrize("as_file", [False, True])
def test_a_window_that_does_not_fit_is_halved_once(directory, monkeypatch, tmp_path, error, as_file):
    separator = Separator(directory, "speech", device="cpu", segment=0.8, overlap=0.3)
    half = Separator(directory, "speech", device="cpu", segment=0.4, overlap=0.2)  # half the segment, half of that
    audio = noise(1, 9000)
    soundfile.write(tmp_path / "in.wav", audio.T, RATE, subtype="FLOAT")

    def run():
        if not as_file:
            return separator.separate(audio).stems[0]
        (path,) = separator.separate_file(tmp_path / "in.wav", tmp_path / "out")
        return soundfile.read(path, dtype="float32", always_2d=True)[0].T

    limited, sizes = fits(separator, 3200, error)
    monkeypatch.setattr(separator.engine.model, "separate", limited)
    np.testing.assert_array_equal(run(), half.separate(audio)["speech"])
    assert sizes[0] == 6400 and set(sizes[1:]) == {3200}
    (tmp_path / "out/speech.wav").unlink(missing_ok=True)
    monkeypatch.undo()
    limited, sizes = fits(separator, 1600, error)
    monkeypatch.setattr(separator.engine.model, "separate", limited)
    with pytest.raises(ussfast.OutOfMemoryError, match=r"out of memory on cpu, also with a segment of 0\.4 s: use"):
        run()
    assert sizes == [6400, 3200]
    assert not list(tmp_path.rglob("out/*"))


def test_other_failures_are_not_called_out_of_memory(directory, monkeypatch):
    separator = Separator(directory, "speech", device="cpu")
    limited, sizes = fits(separator, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    monkeypatch.setattr(separator.engine.model, "separate", limited)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        separator.separate(noise(1, 500))
    assert sizes == [500]


def test_presets_are_reproducible():
    audio, state = noise(1, 1200), torch.random.get_rng_state()
    first = Separator.from_preset("tflocoformer-s", seed=1, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.sample_rate == 8000 and first.labels() == ("source-1", "source-2")
    stems = first.separate(audio).stems
    again = Separator.from_preset("tflocoformer-s", seed=1, device="cpu").separate(audio).stems
    np.testing.assert_array_equal(again, stems)
    other = Separator.from_preset("tflocoformer-s", seed=2, device="cpu").separate(audio).stems
    assert np.abs(other - stems).max() > 1e-3
    with pytest.raises(InputError, match="no preset 'tuss-medum'; did you mean tuss-medium"):
        Separator.from_preset("tuss-medum")
    with pytest.raises(InputError, match="unknown settings colour; there are device"):
        Separator.from_preset("tflocoformer-s", colour="red")
