"""Losses beyond the published per-prompt one: groups in one go, sources asked by example, absent sounds, SFC."""

from types import SimpleNamespace

import pytest
import torch
from golden_io import arrays, assert_close, settings

from ussfast.long_audio import permutation
from ussfast.train import losses

NAMES = [("speech", "speech", "sfx", "sfx"), ("sfx", "speech", "sfx", "musicbg"), ("sfx",) * 4, tuple("abcd")]


def signals(batch=4, silent=((0, 1), (1, 0), (1, 2), (3, 3))):
    est, ref = torch.randn(batch, 4, 300), torch.randn(batch, 4, 300)
    for item, source in silent:
        ref[item, source] = 0
    return est, ref


def one_by_one(est, ref, prompts, asked=(), mixture=None):
    """The plain form: item by item, group by group."""
    rows = []
    for item, names in enumerate(prompts):
        keys = [(name, i if (item, i) in asked else None) for i, name in enumerate(names)]
        parts = []
        for key in dict.fromkeys(keys):
            at = [i for i, other in enumerate(keys) if other == key]
            e, r = est[item : item + 1, at], ref[item : item + 1, at]
            level = None if mixture is None else mixture[item].square().sum().view(1, 1)
            pairs = permutation.zero_ref_snr_pairs(e, r, mixture=level)
            parts.append(permutation.best_permutation(pairs)[0][0])
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("asked", [(), ((0, 1), (2, 0), (2, 3), (3, 2))])
@pytest.mark.parametrize("silence", ["group", "mixture"])
def test_all_groups_at_once(asked, silence):
    est, ref = signals()
    mixture = ref.sum(1) if silence == "mixture" else None
    found, expected = (est.clone().requires_grad_() for _ in range(2))
    got = losses.prompt_loss(found, ref, NAMES, asked, mixture)
    want = one_by_one(expected, ref, NAMES, asked, mixture)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-5)
    got.mean().backward()
    want.mean().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-7)


def test_a_source_asked_by_example_is_not_exchanged():
    _, ref = signals(1, ())
    swapped = ref[:, [1, 0, 2, 3]]
    free = losses.prompt_loss(swapped, ref, NAMES[:1])
    assert (free < -25).all()
    bound = losses.prompt_loss(swapped, ref, NAMES[:1], [[0, 0]])
    assert (bound[0, :2] > 0).all() and (bound[0, 2:] < -25).all()
    assert losses.prompt_groups(NAMES[:1], [[0, 0]]) == [(0, (0,)), (0, (1,)), (0, (2, 3))]


def test_absent_sounds_against_the_mixture():
    """A lone silent reference: as published there is always more to gain, against the mixture there is an end to it."""
    _, ref = signals(1, ((0, 3),))
    names = [("speech", "sfx", "drums", "bass")]
    level = float(10 * torch.log10(ref.sum(1).square().sum()))

    def last(gain_db, mixture):
        est = ref.clone()
        est[0, 3] = ref.sum(1)[0] * 10 ** (gain_db / 20)
        return float(losses.prompt_loss(est, ref, names, mixture=mixture)[0, 3])

    assert last(-60, None) == pytest.approx(0.1 * (level - 60), abs=0.01)
    assert last(-60, ref.sum(1)) == pytest.approx(0.1 * (level - 30), abs=0.01)
    assert last(0, ref.sum(1)) == pytest.approx(0.1 * level, abs=0.01)
    assert last(-10, ref.sum(1)) > last(-20, ref.sum(1)) > last(-60, ref.sum(1))
    # Sources that sound do not care.
    both = [losses.prompt_loss(ref + 0.1, ref, names, mixture=m) for m in (None, ref.sum(1))]
    torch.testing.assert_close(both[0][:, :3], both[1][:, :3])


def test_the_limits_are_settings():
    _, ref = signals(1, ((0, 0),))
    names = [tuple("abcd")]
    assert (losses.prompt_loss(ref, ref, names, snr_max=12.0)[0, 1:] + 12).abs().max() < 1e-3
    heavy, light = (losses.prompt_loss(ref * 2 + 1, ref, names, zero_weight=w)[0, 0] for w in (1.0, 0.25))
    assert heavy * 0.25 == pytest.approx(light)


def test_sfc_loss():
    given, want = arrays("sfc_loss", "inputs"), arrays("sfc_loss", "outputs")
    est, ref = (given[key].transpose(1, 2) for key in ("est", "ref"))  # [batch, channels, sources, samples]
    for number, config in enumerate(settings("sfc_loss")["configs"]):
        config = SimpleNamespace(**({"snr_max": 30.0, "inactive_thres": -60.0, "only_denominator": False} | config))
        values = losses.sfc_loss(
            est, ref, config.snr_max, config.inactive_thres, config.zeroref_weight, config.only_denominator
        )
        assert_close(values, want["loss_per_channel"][number], 1e-5)
        assert_close(values.mean().double(), want["loss"][number], 1e-5)
    published = losses.sfc_loss(est, ref)
    assert_close(published, want["loss_per_channel"][settings("sfc_loss")["published"]], 1e-5)
    snr = -losses.snr_pairs(est.flatten(0, 1), ref.flatten(0, 1)).diagonal(dim1=1, dim2=2)
    assert_close(snr.mean().double(), want["validation_snr"], 1e-5)


def test_sfc_loss_has_gradients_where_all_is_silent():
    est = torch.zeros(1, 3, 50, requires_grad=True)
    losses.sfc_loss(est, torch.zeros(1, 3, 50)).sum().backward()
    assert est.grad.isfinite().all()
