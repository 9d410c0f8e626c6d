"""Pairs of example clips of one kind, and the loss by which the query encoder finds them together."""

import json
import math

import numpy as np
import pytest
import torch
from running import mixer, steps
from test_queries import item_of, make_pool
from tiny import CAUSAL, tiny_recipe

from ussfast import InputError
from ussfast.models.config import to_dict
from ussfast.train.contrast import contrast_loss, draw_pairs
from ussfast.train.queries import QueryPicker
from ussfast.train.recipe import LossConfig, recipe_from_dict
from ussfast.train.rendering import AugmentConfig
from ussfast.train.separation import Separation
from ussfast.train.trainer import Trainer

POOL = make_pool()
PICKER = QueryPicker(POOL, 0.3)


def kind(item):
    return POOL.items[item].prompt, PICKER.kind(item)


def test_pairs_are_of_one_kind_and_of_two_items():
    seen = set()
    for seed in range(40):
        clips = draw_pairs(PICKER, 4, np.random.default_rng(seed))
        half = len(clips) // 2
        assert half >= 2
        kinds = [kind(clip.item) for clip in clips]
        assert kinds[:half] == kinds[half:] and len(set(kinds)) == half
        assert all(a.item != b.item for a, b in zip(clips[:half], clips[half:], strict=True))
        seen |= set(kinds)
    # "once" and "shy" have one item each: nothing that could be found together.
    several = {key for key, items in PICKER.alike.items() if len(items) > 1}
    assert seen == several and ("sfx", "once") not in seen and ("sfx", "bell") in seen


def test_both_of_a_pair_are_moved_alike():
    picker, rng, augment = QueryPicker(POOL, 0.3, 1.0), np.random.default_rng(0), AugmentConfig(speed=1.0)
    seen = set()
    for _ in range(10):
        clips = draw_pairs(picker, 4, rng, augment)
        half = len(clips) // 2
        assert [c.change for c in clips[:half]] == [c.change for c in clips[half:]]
        seen |= {(c.change.pitch, c.change.stretch) for c in clips}
    assert len(seen) > 20
    assert not any(c.change.moves for c in draw_pairs(PICKER, 4, rng, augment))


def test_batches_have_them():
    batch = mixer(POOL, rows=12, pairs=3, query_seconds=0.3).batch()
    assert batch.pairs.shape[1] == round(0.3 * POOL.rate) and len(batch.pairs) in (4, 6)
    np.testing.assert_allclose(batch.pairs.square().mean(1), 1, rtol=1e-3)
    first, second = np.split(item_of(batch.pairs.numpy()), 2)
    assert [kind(i) for i in first] == [kind(i) for i in second]
    assert mixer(POOL, rows=12).batch().pairs is None


def test_the_loss():
    found = torch.eye(4).repeat(2, 1)
    # Its own clip at likeness 1, six others at 0.
    assert contrast_loss(7 * found) == pytest.approx(math.log(1 + 6 * math.exp(-10)), rel=1e-3)
    lost = torch.ones(8, 4)
    assert contrast_loss(lost) == pytest.approx(math.log(7), rel=1e-5)
    wrong = torch.cat((torch.eye(4), torch.eye(4).roll(1, 0)))
    assert contrast_loss(wrong) > 8


def test_it_teaches_the_query_encoder(tmp_path):
    """Steps on the contrast alone bring clips of one kind together."""
    mix = tiny_recipe()["mix"] | {"pairs": 4, "query_seconds": 0.3, "rows": 6}
    model = {"architecture": "causal", **json.loads(json.dumps(to_dict(CAUSAL)))}
    recipe = recipe_from_dict(tiny_recipe() | {"model": model, "mix": mix, "loss": {"pairs_weight": 100.0}})
    trainer = Trainer(Separation(recipe, POOL, []), tmp_path)
    clips = [mixer(POOL, seed, pairs=4, query_seconds=0.3).batch().pairs for seed in range(8)]

    def distance():
        with torch.no_grad():
            return float(np.mean([contrast_loss(trainer.model.embed(c)) for c in clips]))

    before = distance()
    steps(trainer, 30)
    assert distance() < 0.8 * before


def test_settings_that_make_no_sense():
    with pytest.raises(InputError, match="pairs_weight must be 0 to"):
        LossConfig(pairs_weight=-1.0)
    with pytest.raises(InputError, match="at least two kinds"):
        mixer(POOL, pairs=1)
