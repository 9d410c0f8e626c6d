"""Models whose prompts are vectors without names: the ASP U-Net in a Separator, from arrays, files and streams."""

import copy
import pickle

import numpy as np
import pytest
import soundfile
import torch
from golden_io import arrays, golden_model
from typer.testing import CliRunner

import ussfast
from ussfast import Separator
from ussfast.audio import read
from ussfast.checkpoints.store import save_model
from ussfast.cli.main import app
from ussfast.errors import PromptError, UssfastError
from ussfast.models._folded import has_bfloat16
from ussfast.models._packed import prepare
from ussfast.prompts.names import NONE_YET

NAME, RATE = "zeroshot_unet_tiny", 32000
SHORT = {"segment": 0.8, "overlap": 0.3}


@pytest.fixture
def separator():
    made = Separator.from_model(copy.deepcopy(golden_model(NAME)), device="cpu", **SHORT)
    for name, vector in zip("qr", arrays(NAME, "inputs")["condition"], strict=True):
        made.prompts.add(ussfast.Prompt(name, vector, kind="enrolled"))
    return made


def audio(samples=64000, which="mix_a"):
    return arrays(NAME, "inputs")[which][:, :samples].numpy()


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_one_window_is_the_published_output(backend):
    given, want = arrays(NAME, "inputs"), arrays(NAME, "outputs")
    separator = Separator.from_model(copy.deepcopy(golden_model(NAME)), device="cpu", backend=backend)
    assert (separator.prompts.prompt_size, len(separator.prompts)) == (12, 0)
    separator.prompts.add(ussfast.Prompt("q", given["condition"][0], kind="enrolled"))
    for key in "ab":
        found = separator.separate(given[f"mix_{key}"].numpy(), RATE, prompts=("q",))
        expected = want[f"wav_{key}"][:1].numpy()
        assert found.labels == ("q",)
        assert np.abs(found["q"] - expected).max() <= 2e-5 * np.abs(expected).max()


def test_prompts_do_not_see_each_other(separator):
    both = separator.separate(audio(), RATE, prompts=("r", "q"))
    for name in "qr":
        np.testing.assert_allclose(both[name], separator.separate(audio(), RATE, prompts=name)[name], atol=1e-6)
    assert np.abs(both["q"] - both["r"]).max() > 0.01 * np.abs(both["q"]).max()


@pytest.mark.parametrize(
    ("rate", "channels", "samples"), [(44100, 2, 70001), (8000, 1, 801), (32000, 3, 1), (32000, 2, 1500)]
)
def test_any_rate_channels_and_length(separator, rate, channels, samples):
    mixture = np.random.default_rng(0).normal(0, 0.1, (channels, samples)).astype(np.float32)
    stems = separator.separate(mixture, rate, prompts=("q", "r")).stems
    assert stems.shape == (2, channels, samples)
    assert np.isfinite(stems).all()


def test_channels_are_separated_alike(separator):
    stereo = np.concatenate([audio(30000), audio(30000, "mix_b")])
    stems = separator.separate(stereo, RATE, prompts="q").stems[0]
    for channel, stem in zip(stereo, stems, strict=True):
        np.testing.assert_allclose(stem, separator.separate(channel, RATE, prompts="q").stems[0, 0], atol=1e-6)


def test_a_file_is_what_an_array_is(separator, tmp_path):
    soundfile.write(tmp_path / "mixture.wav", audio(50123).T, RATE, "FLOAT")
    written = separator.separate_file(tmp_path / "mixture.wav", tmp_path, prompts=("q", "r"), residual=True)
    found = separator.separate(audio(50123), RATE, prompts=("q", "r"))
    for path, stem in zip(written, [*found.stems, found.residual], strict=True):
        np.testing.assert_allclose(read(path)[0], stem, atol=1e-6)
        assert read(path)[0].shape == (1, 50123)


def test_no_tail_is_lost_and_windows_agree(separator):
    whole = Separator.from_model(copy.deepcopy(golden_model(NAME)), device="cpu", segment=5.0)
    whole.prompts.add(separator.prompts["q"])
    long, short = (s.separate(audio(63777), RATE, prompts="q")["q"] for s in (whole, separator))
    assert short.shape == long.shape == (1, 63777)
    # Windows are not the whole, but resemble it up to the last sample.
    tail = long[:, -3000:]
    assert np.square(short[:, -3000:] - tail).sum() < 0.1 * np.square(tail).sum()


def test_streams(separator):
    chunks = np.array_split(audio(60000), 17, axis=1)
    pieces = list(separator.stream(chunks, RATE, prompts=("q", "r")))
    joined = np.concatenate([piece.stems for piece in pieces], -1)
    np.testing.assert_allclose(joined, separator.separate(audio(60000), RATE, prompts=("q", "r")).stems, atol=1e-5)


def test_prompts_are_conditioned_once(separator, monkeypatch):
    model, calls = separator.engine.model, []
    condition = model.condition
    monkeypatch.setattr(model, "condition", lambda prompts: (calls.append(1), condition(prompts))[1])
    for _ in range(3):
        separator.separate(audio(), RATE, prompts=("q", "r"))
    list(separator.stream([audio()], RATE, prompts=("q", "r")))
    assert calls == [1]
    # A name that stands for another vector is another prompt.
    before = separator.separate(audio(9000), RATE, prompts="q")["q"]
    separator.prompts.add(ussfast.Prompt("q", separator.prompts["r"].vector, kind="enrolled"))
    after = separator.separate(audio(9000), RATE, prompts="q")["q"]
    assert not np.allclose(before, after)


def test_batches_are_single_windows(separator):
    other = Separator.from_model(copy.deepcopy(golden_model(NAME)), device="cpu", batch=3, **SHORT)
    other.prompts.add(separator.prompts["q"])
    expected = separator.separate(audio(), RATE, prompts="q").stems
    np.testing.assert_allclose(other.separate(audio(), RATE, prompts="q").stems, expected, atol=1e-6)


def test_pickles_keep_the_vectors(separator):
    other = pickle.loads(pickle.dumps(separator))
    expected = separator.separate(audio(9000), RATE, prompts=("q", "r")).stems
    np.testing.assert_allclose(other.separate(audio(9000), RATE, prompts=("q", "r")).stems, expected, atol=1e-6)


def test_bfloat16_and_int8_are_near(separator):
    expected = separator.separate(audio(), RATE, prompts="q").stems
    for dtype in ("bf16", "int8"):
        other = Separator.from_model(copy.deepcopy(golden_model(NAME)), device="cpu", dtype=dtype, **SHORT)
        other.prompts.add(separator.prompts["q"])
        found = other.separate(audio(), RATE, prompts="q").stems
        assert found.dtype == np.float32 and np.abs(found - expected).max() <= 3e-2 * np.abs(expected).max()


def test_what_is_wrong_is_said_in_a_line(separator):
    bare = Separator.from_model(copy.deepcopy(golden_model(NAME)), device="cpu")
    cases = [
        (lambda: bare.separate(audio(999), RATE), f"no prompts given; {NONE_YET}"),
        (lambda: bare.separate(audio(999), RATE, prompts="dog"), f"unknown prompt 'dog'; {NONE_YET}"),
        (lambda: bare.prompts["dog"], f"unknown prompt 'dog'; {NONE_YET}"),
        (lambda: Separator.from_model(golden_model(NAME), "dog", device="cpu"), f"unknown prompt 'dog'; {NONE_YET}"),
        (lambda: separator.separate(audio(999), RATE, prompts="s"), "unknown prompt 's'; the model knows: q, r"),
        (lambda: separator.separate(audio(999), RATE, prompts=("q", "q")), "2 equal prompts"),
        (lambda: separator.separate(audio(999), RATE), "no prompts given; name at least one of: q, r"),
        (lambda: bare.prompts.add(ussfast.Prompt("q", torch.ones(13), "enrolled")), "vector of 12 numbers is needed"),
        (lambda: bare.prompts.add(ussfast.Prompt("q", torch.full((12,), torch.nan), "enrolled")), "not finite"),
        (lambda: bare.enroll("q", [audio()], RATE), "'model' needs a detector to make prompts of clips"),
        (lambda: bare.session(RATE), f"no prompts given; {NONE_YET}"),
    ]
    for call, says in cases:
        with pytest.raises(PromptError) as caught:
            call()
        assert says in str(caught.value) and "\n" not in str(caught.value)
        assert isinstance(caught.value, UssfastError)


def test_silence_stays_silence(separator):
    mixture = np.zeros((2, 40000), np.float32)
    mixture[1] = audio(40000)
    stems = separator.separate(mixture, RATE, prompts="q").stems
    assert not stems[0, 0].any() and stems[0, 1].any()


def test_preparing_again_is_the_same():
    model, given = copy.deepcopy(golden_model(NAME)), arrays(NAME, "inputs")
    found = []
    for precision in ("float32", "bfloat16", "float32"):
        prepare(model, precision)
        with torch.inference_mode():
            found.append(model.separate(given["mix_b"], given["condition"]))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[0], found[1]) != has_bfloat16(torch.device("cpu"))


def test_the_command_line_knows_that_vectors_are_needed(tmp_path):
    model = copy.deepcopy(golden_model(NAME))
    save_model(tmp_path / "asp", model, name="asp", license="MIT", source={})
    soundfile.write(tmp_path / "x.wav", audio(9000).T, RATE)
    for more, says in (([], "no prompts given"), (["-p", "dog"], "unknown prompt 'dog'")):
        command = ["separate", str(tmp_path / "x.wav"), "-m", str(tmp_path / "asp"), "-o", str(tmp_path / "out"), *more]
        done = CliRunner().invoke(app, command)
        assert done.exit_code != 0 and not (tmp_path / "out").exists()
        assert str(done.exception).startswith(says) and "show it the sound with --query CLIP" in str(done.exception)
