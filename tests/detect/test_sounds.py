"""Events become sounds to be separated, and pieces of the recording that show them."""

import numpy as np
import pytest

from ussfast.detect.events import Event
from ussfast.detect.sounds import LONGEST, MOST, SHORTEST, cut_out, sounds


def events(**spans):
    """Of labels: score and spans."""
    return [Event(label, *span, score) for label, (score, *places) in spans.items() for span in places]


def test_a_sound_is_shown_where_it_is_alone():
    heard = sounds(events(rain=(0.9, (0, 12)), dog=(0.6, (4, 6), (9, 10)), bell=(0.7, (13, 14.5))), 8)
    rain, bell, dog = (next(s for s in heard if s.label == label) for label in ("rain", "bell", "dog"))
    assert rain.pieces == ((0, 4), (6, 9), (10, 12)) and rain.over == ()
    assert bell.pieces == ((13, 14.5),) and bell.over == ()
    # Never alone: it comes after what it has to be told from.
    assert heard[-1] == dog and dog.pieces == ((4, 6), (9, 10)) and dog.over == ("rain",)
    assert (dog.label, dog.score, dog.also) == ("dog", 0.6, ())


def test_what_is_alone_for_a_moment_is_shown_by_all_of_it():
    (one, two) = sounds(events(rain=(0.9, (0, 4)), dog=(0.8, (0.7, 6))), 8)
    assert one.label == "dog" and one.pieces == ((4, 6),)
    assert two.label == "rain" and two.pieces == ((0, 4),) and two.over == ("dog",)


def test_sounds_that_are_never_alone_come_by_score():
    both = events(rain=(0.9, (0, 4)), dog=(0.7, (0, 2.2)), bell=(0.8, (1.8, 4)))
    heard = sounds(both, 8)
    assert [sound.label for sound in heard] == ["rain", "bell", "dog"]
    assert [sound.over for sound in heard] == [(), ("rain",), ("rain", "bell")]
    # Once the rain is known, the bell is shown where nothing else is but rain.
    assert [sound.pieces for sound in heard] == [((0, 4),), ((2.2, 4),), ((0, 2.2),)]


def test_labels_in_the_same_places_are_one_sound():
    both = events(speech=(0.9, (0, 4), (6, 9)), male=(0.8, (0.1, 4), (6, 8.8)), dog=(0.7, (0, 4)))
    heard = sounds(both, 8)
    assert [(s.label, s.also) for s in heard] == [("speech", ("male",)), ("dog", ())]
    assert heard[0].pieces == ((6, 9),) and heard[1].over == ("speech",)


def test_the_surest_sounds_are_kept():
    many = [Event(f"sound {i}", 2 * i, 2 * i + 1.5, i / 20) for i in range(20)]
    assert [s.label for s in sounds(many, 3)] == ["sound 19", "sound 18", "sound 17"]
    assert sounds([], 3) == []


def test_short_events_are_widened_and_long_ones_cut():
    (click,) = sounds([Event("click", 3.0, 3.1, 0.9)], 8)
    assert click.pieces == (pytest.approx((2.8, 3.3)),)
    (first,) = sounds([Event("click", 0.0, 0.1, 0.9)], 8)
    assert first.pieces == ((0, SHORTEST),)
    (long,) = sounds([Event("rain", 0.0, 3600.0, 0.9)], 8)
    lengths = [end - start for start, end in long.pieces]
    assert sum(lengths) <= MOST and len(lengths) > 5 and max(lengths) <= LONGEST
    # From all over the hour.
    assert long.pieces[0][0] < 400 and long.pieces[-1][0] > 2800


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_pieces_are_cut_out_of_blocks(block):
    audio = np.random.default_rng(0).standard_normal((1, 100)).astype(np.float32)
    taken = []

    def blocks():
        for at in range(0, 100, block):
            taken.append(at)
            yield audio[:, at : at + block]

    found = cut_out(blocks(), 10, [(5.0, 6.0), (0.0, 0.7), (0.3, 2.0)])
    for part, (first, last) in zip(found, ((50, 60), (0, 7), (3, 20)), strict=True):
        assert np.array_equal(part, audio[0, first:last])
    assert max(taken) < 60 or block == 1000, "read further than needed"


def test_pieces_are_of_one_channel_and_end_with_the_recording():
    audio = np.random.default_rng(0).standard_normal((1, 95)).astype(np.float32)
    (part,) = cut_out([np.concatenate((audio, -audio))], 10, [(9.0, 9.8)])
    assert np.allclose(part, audio[0, 90:]) or np.allclose(part, -audio[0, 90:]), "opposite phases cancel"
    (nothing,) = cut_out([audio], 10, [(9.9, 10.3)])
    assert nothing.shape == (0,)
