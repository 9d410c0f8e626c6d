"""AutoClip against recorded thresholds and numpy."""

import numpy as np
import pytest
from golden_io import arrays, settings
from running import steps, trainer_in

from ussfast.train.autoclip import AutoClip


def test_recorded_thresholds():
    norms, want = arrays("autoclip", "inputs")["grad_norms"], arrays("autoclip", "outputs")
    percentiles = settings("autoclip")["percentiles"]
    assert want.keys() == {f"clip_p{p}" for p in percentiles}
    for percentile in percentiles:
        clip = AutoClip(percentile)
        found = [clip.threshold(norm) for norm in norms.tolist()]
        np.testing.assert_allclose(found, want[f"clip_p{percentile}"], rtol=1e-14)


@pytest.mark.parametrize("percentile", [0, 3.7, 10, 50, 99.9, 100])
def test_the_percentile_is_numpys(percentile):
    norms = np.random.default_rng(0).lognormal(size=300)
    norms[50:80] = norms[0]  # ties
    clip = AutoClip(percentile)
    found = [clip.threshold(float(norm)) for norm in norms]
    expected = [np.percentile(norms[: k + 1], percentile) for k in range(len(norms))]
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_the_state_goes_on():
    norms = np.random.default_rng(1).lognormal(size=60).tolist()
    straight, first, second = AutoClip(10), AutoClip(10), AutoClip(10)
    for norm in norms[:30]:
        assert straight.threshold(norm) == first.threshold(norm)
    second.load(first.state())
    assert [straight.threshold(n) for n in norms[30:]] == [second.threshold(n) for n in norms[30:]]


def test_the_trainer_clips_by_it(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool, optim={"autoclip_percentile": 10.0, "steps": 50})
    norms = []
    for _ in range(4):
        steps(trainer, 1)
        norms.append(trainer.last["grad_norm"])
        assert trainer.last["clip"] == pytest.approx(np.percentile(norms, 10))
        kept = [p.grad.square().sum() for p in trainer.model.parameters()]
        assert float(sum(kept)) ** 0.5 == pytest.approx(min(trainer.last["clip"], norms[-1]), rel=1e-4)
    assert trainer.last["clip"] < max(norms)
    batch = trainer.work.mixer.batch()
    batch.mixture[0, 100] = float("nan")
    trainer.train_step(batch)
    assert trainer.autoclip.history == sorted(norms)  # what is not finite stays out
