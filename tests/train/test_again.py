"""Sources of a mixture that are asked for a second time, by example."""

import json

import numpy as np
import pytest
import torch
from running import mixer, steps
from test_queries import make_pool
from tiny import CAUSAL, tiny_recipe

from ussfast import InputError
from ussfast.models.config import to_dict
from ussfast.train.again import draw_again
from ussfast.train.chains import absent_prompts
from ussfast.train.recipe import recipe_from_dict
from ussfast.train.rendering import Plan
from ussfast.train.separation import Separation
from ussfast.train.trainer import Trainer

POOL = make_pool()


def batches(count=30, **settings):
    make = mixer(POOL, **({"again": 1.0, "query_seconds": 0.3, "rows": 12} | settings))
    return [make.batch() for _ in range(count)]


def test_the_last_source_is_one_of_the_others_or_not_there():
    seen = set()
    for batch in batches(silence=0.2, dropout=0.2, absent=0.3):
        asked = set(map(tuple, batch.asked.tolist()))
        last = batch.references.shape[1] - 1
        assert len(batch.prompts[0]) == last + 1 == batch.absent.shape[1]
        assert len(batch.prompts) * (last + 1) <= 12
        for item, names in enumerate(batch.prompts):
            assert (item, last) in asked
            own, others = batch.references[item, last], batch.references[item, :last]
            if batch.absent[item, last]:
                assert not own.any()
                seen.add("absent")
                continue
            same = [i for i in range(last) if torch.equal(own, others[i])]
            assert own.any() and len(same) == 1 and names[same[0]] == names[last]
            seen.add("present")
    assert "present" in seen


def test_the_mixture_has_the_source_once():
    for batch in batches():
        torch.testing.assert_close(batch.mixture, batch.references[:, :-1].sum(1), rtol=1e-4, atol=1e-4)


def test_clips_stand_for_the_last_source_beside_other_queries():
    for batch in batches(query=0.5):
        assert len(batch.queries) == len(batch.asked) >= len(batch.prompts)
        assert len(set(map(tuple, batch.asked.tolist()))) == len(batch.asked)


def test_mixtures_without_any_clip_are_asked_as_before():
    """No source that is there, and nothing that would be absent from these."""
    make = mixer(POOL, query_seconds=0.3)
    names = [("speech", "sfxbg", "musicbg")]
    assert absent_prompts(names[0]) == []
    assert draw_again(make.picker, Plan(), [[]], names, make.rng) is None


def test_nothing_changes_while_it_is_off():
    on, off = mixer(POOL, query=0.3, query_seconds=0.3), mixer(POOL, query=0.3, again=0.0, query_seconds=0.3)
    for _ in range(4):
        one, other = on.batch(), off.batch()
        assert torch.equal(one.references, other.references) and one.prompts == other.prompts
    assert on.rng.bit_generator.state == off.rng.bit_generator.state


def test_a_model_learns_from_it(tmp_path, pool):
    mix = tiny_recipe()["mix"] | {"again": 1.0, "query_seconds": 0.3, "rows": 6}
    model = {"architecture": "causal", **_trunk()}
    trainer = Trainer(Separation(recipe_from_dict(tiny_recipe() | {"model": model, "mix": mix}), pool, []), tmp_path)
    losses = steps(trainer, 4)
    assert np.isfinite(losses).all()
    assert trainer.model.query_encoder.out.weight.grad is not None


def _trunk():
    return json.loads(json.dumps(to_dict(CAUSAL)))


@pytest.mark.parametrize("rows", [4, 5])
def test_it_needs_a_row_more(rows):
    if rows == 4:
        with pytest.raises(InputError, match="1 more with again"):
            mixer(POOL, rows=rows, again=0.5)
    else:
        mixer(POOL, rows=rows, again=0.5)
