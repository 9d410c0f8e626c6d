"""Labels of stems: all different, and each is that of one stem, whatever prompts are called."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import CAUSAL, RATE, UNCONDITIONAL, noise, tiny_model

from ussfast import InputError, PromptError, Separation, Separator
from ussfast.prompts.bank import Prompt
from ussfast.prompts.names import number_repeats
from ussfast.separation import choose, output_labels
from ussfast.streaming.live.outputs import Selection

NAMES = ("a", "a-1", "a-2", "a-1-1", "b", "b-1", "my dog", "my_dog")


def enrolled(*names):
    separator = Separator.from_model(tiny_model(CAUSAL), dtype="float32")
    for name in names:
        separator.prompts.add(Prompt(name, torch.randn(CAUSAL.dim), "enrolled"))
    return separator


@given(st.lists(st.sampled_from(NAMES), max_size=12))
def test_labels_are_different_and_single_names_keep_theirs(names):
    labels = number_repeats(names)
    assert len(set(labels)) == len(names)
    for name, label in zip(names, labels, strict=True):
        assert label == name if names.count(name) == 1 else label.startswith(f"{name}-")


def test_an_enrolled_name_beside_numbers():
    separator, audio = enrolled("speech-1"), noise(1, 3000)
    out = separator.separate(audio, RATE, prompts=("speech", "speech", "speech-1"))
    assert out.labels == ("speech-2", "speech-3", "speech-1")
    alone = separator.separate(audio, RATE, prompts="speech-1")["speech-1"]
    np.testing.assert_allclose(out["speech-1"], alone, atol=1e-5)


def test_a_result_has_no_label_twice():
    with pytest.raises(InputError, match=r"must be different, got \['a', 'a'\]"):
        Separation(("a", "a"), np.zeros((2, 1, 3), np.float32), RATE, np.zeros((1, 3), np.float32))


def test_the_residual_is_no_stem(tmp_path):
    with pytest.raises(PromptError, match="'residual' is what no stem took"):
        enrolled("residual")
    # A model may call a source so.
    labels, stems = ("residual", "speech"), np.ones((2, 1, 3), np.float32)
    out = Separation(labels, stems, RATE, np.zeros((1, 3), np.float32))
    with pytest.raises(InputError, match="a stem is called 'residual' itself"):
        out.save(tmp_path, residual=True)
    assert not list(tmp_path.iterdir())
    assert [path.name for path in out.save(tmp_path)] == ["residual.wav", "speech.wav"]
    assert choose(labels, False, ["residual"]) == ((0,), False)
    assert choose(("speech",), False, ["residual"]) == ((), True)
    assert output_labels(("speech",), True) == ("speech", "residual")
    assert Selection(labels, "residual").channels(out).tolist() == [[1, 1, 1]]


def test_what_is_put_out_is_never_another_stem():
    piece = Separation(("speech",), np.ones((1, 1, 3), np.float32), RATE, np.full((1, 3), 5, np.float32))
    assert Selection(("speech", "drums"), "residual").channels(piece).tolist() == [[4, 4, 4]]
    with pytest.raises(InputError, match="no stem 'drums'"):
        Selection(("speech", "drums"), "drums").channels(piece)


@pytest.mark.parametrize("vector", [torch.zeros(7), torch.zeros(1, 8), torch.full((8,), torch.nan)])
def test_vectors_of_another_kind_are_no_prompts(vector):
    with pytest.raises(PromptError, match="'dog': (a vector of 8 numbers|its vector has numbers that)"):
        enrolled().prompts.add(Prompt("dog", vector, "enrolled"))
    without = Separator.from_model(tiny_model(UNCONDITIONAL)).prompts
    with pytest.raises(PromptError, match="this model takes no prompts"):
        without.add(Prompt("dog", torch.zeros(8), "enrolled"))
