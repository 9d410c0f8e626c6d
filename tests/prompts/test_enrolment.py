"""Enrolment: prompts from example clips, used like those that come with the model."""

import io

import numpy as np
import pytest
import soundfile
import torch
from tiny import CAUSAL, RATE, TUSS, noise, tiny_directory, tiny_model

from ussfast import Separator
from ussfast.errors import InputError, PromptError
from ussfast.prompts.bank import Prompt


@pytest.fixture()
def separator():
    return Separator.from_model(tiny_model(CAUSAL), device="cpu")


def test_an_enrolled_prompt_is_used_by_name_beside_class_prompts(separator):
    clip, mixture = noise(1, 4000, seed=1), noise(2, 6000)
    prompt = separator.enroll("dog", [clip], RATE)
    assert (prompt.name, prompt.kind, list(prompt.vector.shape)) == ("dog", "enrolled", [CAUSAL.dim])
    assert "dog" in separator.prompts and separator.prompts["dog"] is prompt
    out = separator.separate(mixture, RATE, prompts=("speech", "dog", "dog"))
    assert out.labels == ("speech", "dog-1", "dog-2") and out.stems.shape == (3, 2, 6000)
    assert np.abs(out["dog-1"] - out["speech"]).max() > 1e-4


def test_class_and_enrolled_prompts_are_interchangeable(separator):
    """A vector gives the same sound whatever its kind, and lengths do not count."""
    vector = separator.prompts["speech"].vector
    separator.prompts.add(Prompt("voice", vector * 2, "enrolled"))
    mixture = noise(1, 6000)
    a = separator.separate(mixture, RATE, prompts=("speech", "bass"))["speech"]
    b = separator.separate(mixture, RATE, prompts=("voice", "bass"))["voice"]
    np.testing.assert_allclose(b, a, atol=1e-5)


def test_clips_from_files_and_arrays_of_any_rate_channels_and_level(separator, tmp_path):
    clip = noise(2, 8000, seed=3)
    mono = clip.mean(0, keepdims=True)
    soundfile.write(tmp_path / "clip.wav", clip.T, RATE, subtype="FLOAT")
    plain = separator.enroll("a", [mono], RATE).vector
    for given in (clip, clip * 0.02, torch.from_numpy(mono[0])):
        torch.testing.assert_close(separator.enroll("b", [given], RATE).vector, plain, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(separator.enroll("c", [tmp_path / "clip.wav"]).vector, plain, rtol=1e-3, atol=1e-3)
    both = separator.enroll("both", [tmp_path / "clip.wav", mono], RATE).vector
    torch.testing.assert_close(both, plain, rtol=1e-3, atol=1e-3)
    # Taken for audio of twice the rate, the same samples are another sound.
    assert (separator.enroll("d", [mono], 2 * RATE).vector - plain).abs().max() > 1e-2


@pytest.mark.parametrize("gains", [(1, -1), (0.3, -1), (1, 1, -1, -1)])
def test_channels_of_opposite_phase_do_not_cancel(separator, gains):
    mono = noise(1, 8000, seed=3)
    clip = np.array(gains, np.float32)[:, None] * mono
    plain, found = (separator.enroll("x", [sound], RATE).vector for sound in (mono, clip))
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3)


def test_several_clips_are_averaged_and_enrolling_again_replaces(separator):
    clips = [noise(1, 4000, seed=s) for s in (1, 2)]
    one, two = (separator.enroll("x", [clip], RATE).vector for clip in clips)
    both = separator.enroll("x", clips, RATE).vector
    torch.testing.assert_close(both, (one + two) / 2)
    assert separator.prompts["x"].vector is both and len(separator.prompts) == len(CAUSAL.prompts) + 1


def test_a_saved_model_enrols_the_same(tmp_path, separator):
    clip = noise(1, 4000, seed=1)
    again = Separator(tiny_directory(tmp_path, CAUSAL), device="cpu")
    torch.testing.assert_close(again.enroll("dog", [clip], RATE).vector, separator.enroll("dog", [clip], RATE).vector)


def test_open_files_and_generators_of_clips(separator):
    clip = noise(2, 8000, seed=3)
    file = io.BytesIO()
    soundfile.write(file, clip.T, RATE, "FLOAT", format="WAV")
    file.seek(0)
    plain = separator.enroll("a", [clip], RATE).vector
    for _ in range(2):
        torch.testing.assert_close(separator.enroll("b", (c for c in [file])).vector, plain)
    assert not file.closed


def test_clips_far_beyond_full_scale_and_in_opposite_phases(separator):
    clip = noise(1, 4000, seed=3)
    plain = separator.enroll("a", [clip], RATE).vector
    with np.errstate(over="ignore"):
        for gain in (1e4, 1e30, 1e38):
            vector = separator.enroll("b", [clip * np.float32(gain)], RATE).vector
            torch.testing.assert_close(vector, plain, rtol=1e-3, atol=1e-3)
    for right in (-1, -0.9):
        stereo = np.concatenate((clip, clip * np.float32(right)))
        vector = separator.enroll("b", [stereo], RATE).vector
        torch.testing.assert_close(vector, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [7, ["a"], "d" * 300, "a\0b", "", "residual"])
def test_names_that_cannot_be_used(separator, name):
    with pytest.raises(PromptError, match="residual|prompt's name"):
        separator.enroll(name, [np.zeros((1, 4000), np.float32)], RATE)  # before any clip is looked at
    assert len(separator.prompts) == len(CAUSAL.prompts)


@pytest.mark.parametrize(
    ("clips", "said"),
    [
        ([], "at least one"),
        ("clip.wav", "a list of clips"),
        (io.BytesIO(b"one clip\nby itself"), "a list of clips"),
        (noise(2, 4000), "a list of clips"),
        (torch.ones(2, 4000), "a list of clips"),
        (7, "a list of clips"),
        (iter(()), "at least one"),
        ([io.BytesIO(b"rubbish")], "audio: libsndfile could not read it"),
        (["x" * 300], "x{300}: could not be opened: File name too long"),
        (["a\0b"], "could not be opened: no file can have this name"),
        ([np.ones((1, 4000), np.int64)], "int64 has no full scale"),
        ([np.zeros((1, 4000), np.float32)], "clip 1: it is silent; give a clip"),
        ([noise(1, 4000), noise(1, 700)], "clip 2: 0.087 s are too short; give at least 0.1 s"),
    ],
)
def test_clips_that_cannot_be_used(separator, clips, said):
    with pytest.raises(InputError, match=said):
        separator.enroll("dog", clips, RATE)
    assert "dog" not in separator.prompts


def test_names_and_models_that_cannot_be_used(separator):
    with pytest.raises(PromptError, match="'speech' is a class prompt"):
        separator.enroll("speech", [noise(1, 4000)], RATE)
    other = Separator.from_model(tiny_model(TUSS), device="cpu")
    assert separator.can_enroll and not other.can_enroll
    with pytest.raises(PromptError, match="makes no prompts from clips"):
        other.enroll("dog", [noise(1, 4000)], RATE)


def test_a_prompt_is_forgotten(separator):
    separator.enroll("whistle", [noise(1, RATE, seed=9)], RATE)
    separator.prompts.remove("whistle")
    assert "whistle" not in separator.prompts
    with pytest.raises(PromptError, match="unknown prompt 'whistle'"):
        separator.prompts.remove("whistle")
    with pytest.raises(PromptError, match="'speech' is a class prompt of this model, which stays"):
        separator.prompts.remove("speech")
