"""Jumps of level inside a crop: how large, when, of what kind, and the same for the mixture and its references."""

import numpy as np
import pytest
import torch
from running import mixer
from tiny import RATE

from ussfast.errors import InputError
from ussfast.train.jumps import Jump, draw_jump, jump_gains
from ussfast.train.mix_config import MixConfig, PromptSet

SETS = (PromptSet(("speech", "sfx"), 1.0),)


def test_gains_are_the_jumps_asked_for():
    jumps = [Jump(99, 1, -20.0), Jump(199, 400, 12.0), Jump(299), Jump(950, 400, 12.0), Jump(10, 5, 0.0)]
    gains = jump_gains(jumps, 1000, torch.device("cpu"))
    assert gains.shape == (5, 1000) and gains.dtype == torch.float32
    decibels = 20 * gains.double().log10().numpy()
    np.testing.assert_allclose(decibels[0], np.where(np.arange(1000) < 100, 0, -20), atol=1e-5)
    ramp = np.interp(np.arange(1000), [199, 599], [0, 12])  # linear in dB
    np.testing.assert_allclose(decibels[1], ramp, atol=1e-5)
    assert gains[2].equal((torch.arange(1000) >= 300).float())
    assert decibels[3][-1] == pytest.approx(12 * 49 / 400, abs=1e-5)  # what does not fit is cut
    assert gains[4].equal(torch.ones(1000))


def test_what_is_drawn():
    rng = np.random.default_rng(0)
    jumps = [draw_jump(rng, 20.0, 20000, RATE) for _ in range(900)]
    kinds = [[j for j in jumps if j.db is None], [j for j in jumps if j.ramp > 1]]
    kinds.append([j for j in jumps if j.db is not None and j.ramp == 1])
    assert all(220 < len(kind) < 380 for kind in kinds) and sum(map(len, kinds)) == 900
    assert all(j.ramp == 1 for j in kinds[0])
    for kind in kinds:
        places = np.array([j.at for j in kind])
        assert 1000 <= places.min() < 1500 and 18500 < places.max() <= 19000
    levels = np.array([j.db for j in jumps if j.db is not None])
    assert -20 <= levels.min() < -19 and 19 < levels.max() <= 20 and abs(levels.mean()) < 2.5
    ramps = np.array([j.ramp for j in kinds[1]]) / RATE
    assert 0.05 <= ramps.min() < 0.1 and 0.95 < ramps.max() <= 1.0


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_all_sources_jump_alike(monkeypatch, pool, share):
    """Before the jump, and everywhere else, the batch is what it is without; after it, that times the drawn gain."""
    drawn = []

    def keep(*arguments):
        drawn.append(draw_jump(*arguments))
        return drawn[-1]

    monkeypatch.setattr("ussfast.train.mixing.draw_jump", keep)
    plain = mixer(pool, 2, rows=80, sets=SETS).batch()
    batch = mixer(pool, 2, rows=80, sets=SETS, level_jump=share, jump_db=25.0).batch()
    np.testing.assert_allclose(batch.references.sum(1), batch.mixture, atol=1e-5, rtol=1e-5)
    changed = [i for i in range(40) if not batch.references[i].equal(plain.references[i])]
    assert len(changed) == len(drawn) and (len(changed) == 40 if share == 1 else 5 < len(changed) < 28)
    assert max(abs(j.db) for j in drawn if j.db is not None) > 15
    for row, jump in zip(changed, drawn, strict=True):
        before, after = plain.references[row], batch.references[row]
        if jump.db is None:
            assert not after[:, : jump.at + 1].any() and after[:, jump.at + 1 :].equal(before[:, jump.at + 1 :])
            continue
        assert after[:, : jump.at + 1].equal(before[:, : jump.at + 1])
        last = slice(jump.at + jump.ramp, None)
        torch.testing.assert_close(after[:, last], before[:, last] * 10 ** (jump.db / 20), rtol=1e-4, atol=1e-6)


def test_what_is_not_asked_for_jumps_too(pool):
    """A dropped source is in the mixture at the changed level."""
    settings = {"rows": 40, "sets": SETS, "dropout": 1.0}
    plain = mixer(pool, 2, **settings).batch()
    batch = mixer(pool, 2, level_jump=1.0, **settings).batch()
    gains = (batch.mixture / plain.mixture)[plain.mixture.abs() > 0.1]
    alike = (batch.references[:, 0] / plain.references[:, 0])[plain.mixture.abs() > 0.1]
    heard = plain.references[:, 0][plain.mixture.abs() > 0.1].abs() > 0.1
    assert heard.sum() > 1000
    torch.testing.assert_close(gains[heard], alike[heard], rtol=1e-3, atol=1e-5)
    assert gains.min() < 0.5 and gains.max() > 2


def test_no_jumps_draw_nothing(pool):
    one, other = mixer(pool, 3), mixer(pool, 3, level_jump=0.0, jump_db=10.0)
    assert one.batch().mixture.equal(other.batch().mixture)
    assert one.rng.bit_generator.state == other.rng.bit_generator.state


@pytest.mark.parametrize("settings", [{"level_jump": 1.5}, {"level_jump": -0.1}, {"jump_db": -1.0}, {"jump_db": 61.0}])
def test_jumps_that_cannot_be(settings):
    with pytest.raises(InputError, match="(level_jump must be 0 to 1|jump_db must be 0 to 60), got"):
        MixConfig(**settings)
