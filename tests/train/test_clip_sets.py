"""Clips by label: turns, crops that are heard, the loudest place."""

import numpy as np
import pytest
from clip_data import burst
from tiny import RATE

from ussfast.data.pool import AudioPool, Item
from ussfast.errors import InputError
from ussfast.train.clip_sets import ClipSet, in_turn


def clip_set(*clips, labels=None):
    items = [Item(f"{i}", "sfx", f"{i}", "train", "permissive", RATE) for i in range(len(clips))]
    return ClipSet(AudioPool(items, clips, RATE), labels or ["x"] * len(clips))


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c"), tuple("abcdefg")])
def test_labels_come_in_turn_and_never_twice_in_a_row(names):
    rng = np.random.default_rng(0)
    for count in (2, 7, 40):
        drawn = list(in_turn(rng, names, count))
        assert len(drawn) == count and all(a != b for a, b in zip(drawn, drawn[1:], strict=False))
        counts = [drawn.count(name) for name in names]
        assert max(counts) - min(counts) <= 1
    orders = {tuple(in_turn(rng, names, len(names))) for _ in range(60)}
    assert len(orders) > 1


def test_silent_items_have_no_place():
    clips = clip_set(np.zeros(RATE), burst(500, 1.0), np.zeros(5), labels=["x", "x", "y"])
    assert list(clips.by_label) == ["x"] and clips.by_label["x"].tolist() == [1]
    with pytest.raises(InputError, match="the training data has no label 'y'"):
        clips.check(("x", "y"), "training")
    with pytest.raises(InputError, match="training needs clips of 2 labels at least, got x"):
        clips.check(("x",), "training", least=2)


def test_crops_are_where_something_is_heard():
    clips = clip_set(np.concatenate([np.zeros(4 * RATE), burst(500, 2.0)]))
    rng = np.random.default_rng(0)
    offsets = [clips.pick(rng, "x", RATE)[1] for _ in range(30)]
    assert all(offset > 3 * RATE for offset in offsets) and len(set(offsets)) > 20
    # A shorter item lies within the crop.
    short = clip_set(burst(500, 0.5))
    for _ in range(10):
        assert -RATE // 2 <= short.pick(rng, "x", RATE)[1] <= 0


def test_the_loudest_place():
    loud = np.concatenate([burst(500, 3.0), 3 * burst(500, 1.0, seed=1), np.zeros(RATE)])
    clips = clip_set(loud, burst(500, 0.5))
    assert abs(clips.loudest(0, RATE) - 3 * RATE) <= RATE // 4
    assert clips.loudest(1, RATE) == 0
