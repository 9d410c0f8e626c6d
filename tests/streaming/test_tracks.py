"""Prompts that change faster than former ones fade out: every label is that of one sound."""

import numpy as np
import pytest
from tiny import CAUSAL, RATE, SHORT, TUSS, noise, tiny_model

from ussfast import Separator
from ussfast.prompts.bank import Plan, Prompt
from ussfast.prompts.names import number_repeats
from ussfast.streaming.tracks import Tracks

SEPARATORS = {
    "causal": Separator.from_model(tiny_model(CAUSAL), ("speech",), dtype="float32"),
    "windows": Separator.from_model(tiny_model(TUSS), ("speech",), look_ahead=0.05, **SHORT),
}


def plan(*names):
    keys = tuple((name, names[:i].count(name)) for i, name in enumerate(names))
    return Plan(number_repeats(names), keys, None, ())


def changed(tracks, *names, fade=100):
    asked = plan(*names)
    tracks.change(asked, tracks.places(asked), fade)
    return tracks


def test_what_is_asked_for_again_goes_on_where_it_was():
    tracks = Tracks(plan("a", "b"), 8)
    changed(tracks, "c")
    assert tracks.labels == ("c", "a", "b") and tracks.heard == (2, 0, 1)
    changed(tracks, "b", "a")
    assert tracks.labels == ("b", "a", "c") and tracks.heard == (1, 0, 2)
    tracks.go_on(99)
    assert tracks.labels == ("b", "a", "c")
    tracks.go_on(1)
    assert tracks.labels == ("b", "a") and tracks.former == {}


def test_a_former_source_gives_way_to_one_that_has_its_label():
    tracks = changed(Tracks(plan("a", "a"), 8), "b")
    assert tracks.labels == ("b", "a-1", "a-2")
    changed(tracks, "a-1", "a-2")
    assert tracks.labels == ("a-1", "a-2", "a-1-former", "a-2-former", "b")
    changed(tracks, "a-1", "a-1-former", "a")
    assert tracks.labels == ("a-1", "a-1-former", "a", "a-2", "b", "a-2-former")
    assert len(set(tracks.heard)) == len(tracks.heard) == 6


def test_tracks_are_used_again_when_all_are_taken():
    tracks = Tracks(plan("a", "b"), 4)
    for names in (("c", "d"), ("e", "f"), ("a", "f"), ("b", "c")):
        changed(tracks, *names)
        assert tracks.labels[:2] == names and len(set(tracks.labels)) == len(tracks.labels)
        assert sorted(tracks.heard) == sorted(set(tracks.heard)) and max(tracks.heard) < 4


@pytest.mark.parametrize("kind", SEPARATORS)
def test_a_prompt_that_is_dropped_and_asked_for_at_once_is_not_interrupted(kind):
    separator, audio, at = SEPARATORS[kind], noise(1, 9000), 4000
    plain, there = (separator.session(RATE, channels=1) for _ in range(2))
    parts = [plain.push(audio[:, :at]), plain.push(audio[:, at:]), plain.flush()]
    pieces = [there.push(audio[:, :at])]
    there.set_prompts("drums")
    there.set_prompts(("bass", "speech"))
    there.set_prompts("speech")
    pieces += [there.push(audio[:, at:]), there.flush()]
    assert pieces[1].labels == ("speech", "drums", "bass")
    for piece, part in zip(pieces, parts, strict=True):
        np.testing.assert_allclose(piece["speech"], part["speech"], atol=1e-5)
        assert not any(piece[label].any() for label in piece.labels[1:])


def test_an_enrolled_prompt_is_not_taken_for_a_former_one():
    separator, audio = SEPARATORS["causal"], noise(1, 3000)
    separator.prompts.add(Prompt("sfx-2", separator.prompts["bass"].vector, "enrolled"))
    session = separator.session(RATE, prompts=("sfx", "sfx"), channels=1)
    session.push(audio[:, :1000])
    session.set_prompts(("sfx-2", "drums"))
    piece = session.push(audio[:, 1000:])
    assert piece.labels == ("sfx-2", "drums", "sfx-1", "sfx-2-former")
    bass = separator.session(RATE, prompts="bass", channels=1)
    same = [bass.push(audio[:, :1000]), bass.push(audio[:, 1000:])][1]["bass"]
    np.testing.assert_allclose(piece["sfx-2"][:, CAUSAL.stft.hop :], same[:, CAUSAL.stft.hop :], atol=1e-5)
