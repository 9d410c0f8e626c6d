"""The loss above a frequency: whose energy it counts, and that training hears it."""

from dataclasses import replace

import pytest
import torch
from running import trainer_in
from tiny import CAUSAL, RATE, tiny_model

from ussfast.errors import InputError
from ussfast.train.high_band import HighBand, above
from ussfast.train.losses import prompt_loss
from ussfast.train.objective import Objective
from ussfast.train.recipe import LossConfig

HZ = RATE / 4


def tone(hz, samples=RATE):
    return torch.sin(2 * torch.pi * hz / RATE * torch.arange(samples))


def test_energy_above():
    low, high = tone(HZ / 2), tone(1.5 * HZ)
    both = above(torch.stack((low, high, low + high)), HZ, RATE).square().sum(-1)
    expected = high.square().sum()
    assert both[0] < 1e-6 * expected
    torch.testing.assert_close(both[1:], expected.expand(2), rtol=1e-4, atol=0)


def values(est, ref, weight):
    mixture = ref.sum(1)
    high = HighBand.of(est, ref, mixture, HZ, RATE, weight)
    return prompt_loss(est, ref, [("a", "b")], mixture=mixture, high=high)


def test_a_dull_voice_costs_what_the_snr_does_not_hear():
    ref = torch.stack((tone(HZ / 2) + 0.01 * tone(1.5 * HZ), 0.5 * tone(HZ / 4) + 0.02 * tone(1.2 * HZ)))[None]
    dull = ref.clone()
    dull[0, 0] -= 0.01 * tone(1.5 * HZ)
    plain = values(dull, ref, 0.0) - values(ref, ref, 0.0)
    heard = values(dull, ref, 1.0) - values(ref, ref, 1.0)
    assert 0 < plain[0, 0] < 0.5 and heard[0, 0] > 10 and heard[0, 1].abs() < 1e-3
    # An error as large as the reference, over one a hundredth of it and the faint part of the mixture.
    faint = 1e-4 * (0.01**2 + 0.02**2) / 0.01**2
    expected = 10 * torch.log10(torch.tensor((1 + 0.01 + faint) / (0.01 + faint)))
    torch.testing.assert_close(heard[0, 0] - plain[0, 0], expected, rtol=1e-3, atol=0)


def test_mixtures_without_anything_up_there_say_nothing():
    ref = torch.stack((tone(HZ / 2), tone(HZ / 4)))[None]
    est = ref + 1e-4 * tone(1.5 * HZ)
    torch.testing.assert_close(values(est, ref, 5.0), values(est, ref, 0.0))


def test_training_hears_it(tmp_path, pool):
    batch = trainer_in(tmp_path, pool).work.mixer.batch()
    noisy = replace(batch, mixture=batch.mixture + 0.1 * torch.randn_like(batch.mixture))
    model = tiny_model(CAUSAL)
    without, with_it = (
        Objective(model, LossConfig(silence="mixture", high_weight=w, high_hz=HZ))(noisy) for w in (0.0, 0.3)
    )
    assert (with_it - without).abs() > 1e-3
    with_it.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_bad_settings():
    with pytest.raises(InputError, match="high_weight must be 0 to"):
        LossConfig(high_weight=-1.0)
