"""What a separation gives: a mapping from labels to stems; and how things show themselves."""

from collections.abc import Mapping

import numpy as np
import pytest
from tiny import CAUSAL, RATE, UNCONDITIONAL, noise, tiny_model

from ussfast import InputError, Separation, Separator


def made(labels=("speech", "sfx"), channels=2, samples=12345, rate=1000):
    audio = noise(channels, samples)
    return Separation(labels, np.stack([audio * (i + 1) for i in range(len(labels))]), rate, audio)


def test_a_mapping_from_labels_to_stems_in_order():
    out = made(("speech", "sfx-1", "sfx-2"))
    assert isinstance(out, Mapping) and len(out) == 3
    assert list(out) == list(out.keys()) == ["speech", "sfx-1", "sfx-2"]
    for number, (label, stem) in enumerate(out.items()):
        assert label == out.labels[number] and np.shares_memory(stem, out.stems)
        np.testing.assert_array_equal(stem, out.stems[number])
    np.testing.assert_array_equal(np.stack(list(out.values())), out.stems)
    assert tuple(dict(out)) == tuple({**out}) == out.labels


def test_labels_that_are_not_there():
    out = made()
    assert "sfx" in out and "sfxbg" not in out and 0 not in out and None not in out
    assert out.get("sfxbg") is None and out.get("sfxbg", 7) == 7
    np.testing.assert_array_equal(out.get("sfx"), out.stems[1])
    with pytest.raises(InputError, match="no stem 'sfxbg'; there are speech, sfx"):
        out["sfxbg"]


def test_a_separation_equals_itself_only():
    one, other = made(), made()
    assert one == one and one != other and len({one, other}) == 2


@pytest.mark.parametrize(
    ("out", "shown"),
    [
        (made(), "Separation(speech, sfx: 2 channels, 12.345 s at 1000 Hz)"),
        (made(("bass",), 1, 9 * 48000, 48), "Separation(bass: 1 channel, 9000 s at 48 Hz)"),
        (made(samples=0), "Separation(speech, sfx: 2 channels, 0 s at 1000 Hz)"),
    ],
)
def test_separations_are_shown_without_their_samples(out, shown):
    assert repr(out) == str(out) == shown


def test_separators_and_prompts_are_shown_in_a_line():
    separator = Separator.from_model(tiny_model(CAUSAL), ("speech", "sfx"), device="cpu")
    assert repr(separator) == "Separator(model; speech, sfx; 8000 Hz on cpu)"
    separator.enroll("my dog", [noise(1, 4000)], RATE)
    assert repr(separator.prompts["sfx"]) == "Prompt(sfx: class, 8 numbers)"
    assert repr(separator.prompts["my dog"]) == "Prompt(my dog: enrolled, 8 numbers)"
    assert repr(Separator.from_model(tiny_model(CAUSAL), device="cpu")) == "Separator(model; 8000 Hz on cpu)"
    free = Separator.from_model(tiny_model(UNCONDITIONAL), name="free", device="cpu")
    assert repr(free) == "Separator(free; source-1, source-2, source-3; 8000 Hz on cpu)"
