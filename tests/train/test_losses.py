"""Training losses against the published ones (tests/golden/losses_tuss): random signals, some references silent."""

from functools import partial

import pytest
import torch
from golden_io import arrays, assert_close, settings

from ussfast.long_audio import permutation
from ussfast.train import losses

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def signals():
    given = arrays("losses_tuss", "inputs")
    return given["est"], given["ref"]


@pytest.fixture(scope="module")
def want():
    return arrays("losses_tuss", "outputs")


def test_zero_ref_snr(signals, want):
    est, ref = signals
    values, order = permutation.pit_loss(est, ref)
    assert_close(values, want["zeroref_pit"], TOLERANCE)
    assert torch.equal(order, want["zeroref_perm"])
    fixed = permutation.zero_ref_snr_pairs(est, ref).diagonal(dim1=1, dim2=2)
    assert_close(fixed, want["zeroref_noperm"], TOLERANCE)
    values, _ = permutation.pit_loss(est, ref[:, :2])
    assert_close(values, want["zeroref_padrefs"], TOLERANCE)
    values, _ = permutation.pit_loss(est, ref, permutation.css_pairs)
    assert_close(values, want["zeroref_snrmax70_w0"], TOLERANCE)


def test_metrics(signals, want):
    est, ref = signals
    assert_close(permutation.pit_loss(est, ref, losses.snr_pairs)[0], want["snr"], TOLERANCE)
    assert_close(permutation.pit_loss(est[:1], ref[:1], losses.si_snr_pairs)[0], want["si_snr_pit"], TOLERANCE)
    single = permutation.pit_loss(est[:1, :1], ref[:1, :1], losses.si_snr_pairs)[0]
    assert_close(single, want["si_snr_single"], TOLERANCE)


def test_per_prompt(signals, want):
    est, ref = signals
    values = losses.prompt_loss(est, ref, settings("losses_tuss")["prompts"])
    assert_close(values, want["wrapper_prompt_list"].float(), TOLERANCE)
    assert_close(values.mean(), want["wrapper_prompt_scalar"], TOLERANCE)
    assert_close(permutation.pit_loss(est, ref)[0].mean(), want["wrapper_pit_scalar"], TOLERANCE)


def test_every_recorded_loss_is_compared(want):
    assert want.keys() == {
        "zeroref_pit", "zeroref_perm", "zeroref_noperm", "zeroref_padrefs", "zeroref_snrmax70_w0", "snr",
        "si_snr_pit", "si_snr_single", "wrapper_prompt_scalar", "wrapper_prompt_list", "wrapper_pit_scalar",
    }  # fmt: skip


def test_lengths_are_cut_to_the_shorter(signals):
    est, ref = signals
    longer = torch.nn.functional.pad(est, (0, 100), value=1.0)
    assert torch.equal(permutation.pit_loss(longer, ref)[0], permutation.pit_loss(est, ref)[0])


def test_gradients_are_finite_where_estimate_or_reference_is_silent(signals):
    est, ref = signals[0].clone(), signals[1].clone()
    est[:, 0], ref[:, 1] = 0, 0
    pairs = (permutation.zero_ref_snr_pairs, losses.snr_pairs, partial(permutation.zero_ref_snr_pairs, snr_max=10.0))
    for loss in pairs:
        leaf = est.clone().requires_grad_()
        permutation.pit_loss(leaf, ref, loss)[0].mean().backward()
        assert leaf.grad.isfinite().all()
