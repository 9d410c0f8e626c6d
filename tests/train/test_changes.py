"""Changed crops in mixtures: their shares and ranges, what stays together, and that nothing else changes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import mixer
from tiny import RATE, STEMS

from ussfast.data.pool import AudioPool, Item
from ussfast.errors import InputError
from ussfast.train.augment import change_speed
from ussfast.train.mix_config import PromptSet
from ussfast.train.rendering import AugmentConfig, Change, Plan, render_crops

EVERYTHING = {
    "augment": AugmentConfig(speed=0.5, equaliser=0.5, reverb=0.5), "any_band": 0.5, "dropout": 0.3, "absent": 0.4,
    "silence": 0.4, "query": 0.5, "query_seconds": 0.3,
}  # fmt: skip


def test_everything_random_is_in_the_generator(pool):
    settings = EVERYTHING | {"level_jump": 0.5}
    straight, halves = mixer(pool, 5, **settings), mixer(pool, 5, **settings)
    expected = [straight.batch() for _ in range(8)]
    got = [halves.batch() for _ in range(3)]
    torch.rand(7)  # PyTorch's own generator takes no part
    resumed = mixer(pool, 99, **settings)
    resumed.rng.bit_generator.state = json.loads(json.dumps(halves.rng.bit_generator.state))
    got += [resumed.batch() for _ in range(5)]
    for one, other in zip(expected, got, strict=True):
        for name in ("mixture", "references", "absent", "queries", "asked"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None and b is None) or a.equal(b), name
        assert one.prompts == other.prompts
    assert any(batch.queries is not None for batch in expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_references_are_what_is_in_the_mixture(pool, seed):
    batch = mixer(pool, seed, **EVERYTHING | {"dropout": 0.0}).batch()
    np.testing.assert_allclose(batch.references.sum(1), batch.mixture, atol=1e-5)
    assert batch.mixture.isfinite().all() and (batch.mixture.square().mean(-1) > 1e-4).all()


def test_what_is_switched_off_changes_nothing(pool):
    """Neither draws nor audio: recipes without the newer options train on what they trained on."""
    off = {"augment": AugmentConfig(), "any_band": 0.0, "absent": 0.0, "silence": 0.0, "query": 0.0}
    batch = mixer(pool, 3, dropout=0.5, **off).batch()
    assert not batch.absent.any() and batch.absent.shape == batch.references.shape[:2] and batch.queries is None
    plain = mixer(pool, 3, dropout=0.5)
    assert batch.mixture.equal(plain.batch().mixture)
    plan = Plan()
    mixer(pool, 3)._plan(("speech", "drums", "bass"), plan)
    assert all(c.change == Change() for c in plan.crops)


def test_shares_of_changes(pool):
    drawn = mixer(pool, augment=AugmentConfig(speed=0.3, pitch_semitones=2, equaliser=0.2, equaliser_db=4, reverb=0.1))
    plan = Plan()
    for _ in range(600):
        drawn._plan(("speech", "sfx"), plan)
    changes = [c.change for c in plan.crops]
    for name, share in (("moves", 0.3), ("gains_db", 0.2), ("room", 0.1)):
        found = [getattr(change, name) not in (None, False) for change in changes]
        assert abs(np.mean(found) - share) < 5 * np.sqrt(share * (1 - share) / 1200), name
    semitones = 12 * np.log2([c.pitch for c in changes if c.pitch != 1])
    assert semitones.min() < -1.8 and semitones.max() > 1.8 and np.abs(semitones).max() <= 2
    stretches = np.array([c.stretch for c in changes if c.stretch != 1])
    assert 1 / 1.2 <= stretches.min() < 0.85 and 1.18 < stretches.max() <= 1.2
    assert {(c.pitch != 1, c.stretch != 1) for c in changes if c.moves} == {(True, True), (True, False), (False, True)}
    gains = np.array([c.gains_db for c in changes if c.gains_db])
    assert np.abs(gains).max() <= 4 and gains.min() < -3.9 and gains.max() > 3.9
    rooms = np.array([c.room for c in changes if c.room])
    assert (rooms.min(0) >= (0.1, -18)).all() and (rooms.max(0) <= (0.7, -3)).all() and rooms.std(0).min() > 0.1


def song_pool():
    """Two songs whose stems are one sound at four levels, and one item of each other prompt."""
    rng = np.random.default_rng(0)
    items, arrays = [], []
    template = Item("x", "speech", "g", "train", "permissive", RATE)
    for number in range(2):
        sound = 0.2 * rng.standard_normal(16000) * (np.arange(16000) % 1600 < 400)
        for gain, prompt in zip((1.0, 0.7, 0.5, 0.3), STEMS, strict=True):
            items.append(replace(template, prompt=prompt, group=f"song {number}", song=f"song {number}"))
            arrays.append(gain * sound)
    for prompt in ("speech", "sfx", "sfxbg"):
        items.append(replace(template, prompt=prompt, group=prompt))
        arrays.append(0.2 * rng.standard_normal(16000))
    return AudioPool(items, arrays, RATE)


def test_aligned_stems_are_changed_together():
    """Stems that are multiples of each other stay multiples, so their sum is the changed sum."""
    pool, sets = song_pool(), (PromptSet(STEMS, 1.0),)
    config = {"rows": 24, "sets": sets, "augment": AugmentConfig(speed=1.0)}

    def alike(aligned):
        references = mixer(pool, 1, aligned=aligned, **config).batch().references.double()
        references /= references.square().sum(-1, keepdim=True).sqrt()
        return torch.einsum("bin,bjn->bij", references, references)

    assert alike(1.0).min() > 0.999
    assert alike(0.0).triu(1).median() < 0.5  # the measure tells
    plan = Plan()
    mixer(pool, 1, aligned=1.0, **config)._plan(STEMS, plan)
    assert len({(c.offset, c.span, c.change) for c in plan.crops}) == 1 and plan.crops[0].change.moves
    room = AugmentConfig(speed=1.0, equaliser=1.0)
    plan = Plan()
    mixer(pool, 1, aligned=1.0, sets=sets, augment=room)._plan(STEMS, plan)
    assert len({(c.change.pitch, c.change.stretch) for c in plan.crops}) == 1
    assert len({c.change.gains_db for c in plan.crops}) == 4  # colour is each stem's own


def test_changed_crops_are_the_changed_audio(pool):
    drawn = mixer(pool, 2, augment=AugmentConfig(speed=0.5))
    plan = Plan()
    for _ in range(6):
        drawn._plan(("speech", "sfx"), plan)
    made = render_crops(pool, plan.crops, drawn.count, drawn.rng)
    assert 3 < sum(c.change.moves for c in plan.crops) < 10
    # A longer crop too is sound to its end.
    assert all(0 <= c.offset and c.offset + c.span <= pool.length[c.item] for c in plan.crops)
    for row, c in zip(made, plan.crops, strict=True):
        cut = pool.crops(np.array([c.item]), np.array([c.offset]), c.span)
        if c.change.moves:
            cut = change_speed(cut, [c.change.pitch], [c.change.stretch], RATE, drawn.count)
        torch.testing.assert_close(row, cut[0], rtol=0, atol=2e-3)


def test_any_band():
    pool = song_pool()
    sets = (PromptSet(("speech", "sfx"), 1.0),)
    batch = mixer(pool, rows=200, sets=sets, any_band=0.5).batch()
    power = torch.fft.rfft(batch.references.double()).abs().square()
    share = power.cumsum(-1) / power.sum(-1, keepdim=True)
    edges = (share < 1 - 1e-9).sum(-1) * RATE / 3200
    assert (edges[:, 0] - edges[:, 1]).abs().max() <= 5  # one edge for a mixture
    limited = edges[:, 0][edges[:, 0] < 3950]
    assert 30 < len(limited) < 70 and 2950 < limited.min() < 3200 and limited.max() > 3800


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"speed": 1.1}, "must be 0 to 1, got"),
        ({"reverb": -0.1}, "must be 0 to 1, got"),
        ({"stretch": 0.8}, "stretch must be 1 to 2"),
        ({"pitch_semitones": 13.0}, "pitch_semitones must be 0 to 12"),
        ({"equaliser_db": -1.0}, "equaliser_db must be 0 to 40"),
        ({"reverb_seconds": (0.5, 0.2)}, r"reverb_seconds must be .* got \[0.5, 0.2\]"),
        ({"reverb_seconds": (0.0, 0.2)}, "reverb_seconds"),
        ({"reverb_db": (-10.0,)}, "reverb_db must be the least and the most"),
    ],
)
def test_changes_that_cannot_be(settings, says):
    with pytest.raises(InputError, match=says):
        AugmentConfig(**settings)
