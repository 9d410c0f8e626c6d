"""A step of Self-Remixing and RemixIT against recordings of the published code, and its parts one by one."""

import sys
from itertools import permutations

import numpy as np
import pytest
import torch
from golden_io import arrays, assert_close, settings
from running import exactly

from ussfast.errors import InputError
from ussfast.train.remix_losses import MultiResolutionPairs, SnrPairs
from ussfast.train.remixing import (
    Shuffle,
    assigned,
    consistent,
    draw_channels,
    draw_orders,
    loudest,
    mixit_loss,
    put_back,
    remixed_loss,
    shuffled,
    taught,
)

NAME = "selfremixing"


def fir(taps):
    """[sources, taps] -> a separator, of which output n is x filtered by row n."""

    def separate(x):
        padded = torch.nn.functional.pad(x, (taps.shape[1] - 1, 0))
        return torch.nn.functional.conv1d(padded[:, None], taps.flip(1)[:, None])

    return separate


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", ["self", "both", "remixit"])
def test_published_step(case):
    inputs, wanted, config = arrays(NAME, "inputs"), arrays(NAME, "outputs"), settings(NAME)["cases"][case]
    taps = inputs["student_fir"].clone().requires_grad_()
    sources = taught(fir(inputs["teacher_fir"]), inputs["mix"], 3, config["shuffler_mixconsis"])
    shuffle = Shuffle(wanted[f"{case}_batch_perms"], wanted.get(f"{case}_channel_perms"))
    found = remixed_loss(
        fir(taps), inputs["mix"], sources, shuffle, SnrPairs(), config["remixit_loss_weight"],
        config["selfremixing_loss_weight"], config["solver_mixconsis"],
    )  # fmt: skip
    found.total.backward()
    assert_close(found.total.detach(), wanted[f"{case}_loss"], 1e-5)
    assert_close(taps.grad, wanted[f"{case}_grad"], 1e-4)


def test_published_parts():
    inputs, wanted = arrays(NAME, "inputs"), arrays(NAME, "outputs")
    out = fir(inputs["teacher_fir"])(inputs["mix"])
    assert_close(out[..., :50], wanted["teacher_out"], 1e-5)
    assert_close(consistent(out, inputs["mix"])[..., :50], wanted["mixture_consistent"], 1e-5)
    assert_close(loudest(inputs["est"], 2)[..., :20], wanted["most_energetic"], 0)
    losses, _ = assigned(SnrPairs()(inputs["est"], inputs["ref"]))
    assert_close(losses.mean(1), wanted["thres_snr_pit"], 1e-5)


def test_what_is_shuffled_by_hand():
    sources = noise(3, 2, 5)
    orders, channels = torch.tensor([[1, 2, 0], [0, 1, 2]]), torch.tensor([[1, 0], [0, 1], [0, 1]])
    found = shuffled(sources, Shuffle(orders, channels))
    exactly(found[0], torch.stack((sources[1, 0], sources[0, 0])))
    exactly(found[2], torch.stack((sources[0, 1], sources[2, 1])))
    dealt = shuffled(sources, Shuffle(torch.arange(3).expand(2, 3), channels))
    exactly(put_back(found, orders), dealt)


@pytest.mark.parametrize("batch, sources", [(2, 2), (4, 3), (6, 6), (16, 16)])
def test_constrained_orders_disagree_everywhere(batch, sources):
    rng = np.random.default_rng(0)
    for _ in range(5):
        orders = draw_orders(rng, batch, sources)
        exactly(orders.sort(1).values, torch.arange(batch).expand(sources, batch))
        assert all(len(set(column)) == sources for column in orders.T.tolist())
    few = [draw_orders(rng, 2, 3) for _ in range(20)]  # more sources than items: drawn independently
    assert any(len(set(column)) == 1 for orders in few for column in orders.T.tolist())
    free = [draw_orders(rng, 4, 2, constrained=False) for _ in range(20)]
    assert any(len(set(column)) == 1 for orders in free for column in orders.T.tolist())


def test_channels_are_dealt_for_each_item_and_the_last_one_can_stay():
    rng = np.random.default_rng(0)
    drawn = draw_channels(rng, 50, 3)
    assert set(map(tuple, drawn.tolist())) == set(permutations(range(3)))
    kept = draw_channels(rng, 50, 3, keep_last=True)
    assert set(map(tuple, kept.tolist())) == {(0, 1, 2), (1, 0, 2)}


@pytest.mark.parametrize("sources", [1, 3, 4, 5])
def test_the_best_assignment_of_all(sources):
    pairs = noise(6, sources, sources)
    losses, order = assigned(pairs)
    every = torch.stack([pairs[:, p, range(sources)].mean(1) for p in permutations(range(sources))])
    torch.testing.assert_close(losses.mean(1), every.min(0).values)
    exactly(losses, pairs.gather(1, order[:, None])[:, 0])


def test_gradients_go_through_the_assignment_of_many():
    pairs = noise(2, 4, 4).requires_grad_()
    losses, order = assigned(pairs)
    losses.sum().backward()
    exactly(pairs.grad, torch.zeros(2, 4, 4).scatter(1, order[:, None], 1.0))
    assert torch.isfinite(assigned(torch.full((1, 4, 4), torch.nan))[1]).all()


def test_many_sources_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    assert assigned(noise(2, 3, 3))[1].shape == (2, 3)
    with pytest.raises(InputError, match=r"more than 3 sources need scipy: pip install 'ussfast\[train\]'"):
        assigned(noise(2, 4, 4))


def test_thresholded_snr():
    ref = noise(1, 2, 800)
    perfect = SnrPairs(snr_max=20)(ref, ref)[0].diag()
    torch.testing.assert_close(perfect, torch.full((2,), -20.0), rtol=0, atol=1e-4)
    half = SnrPairs(snr_max=200)(ref / 2, ref)[0, 0, 0]
    assert half.item() == pytest.approx(20 * np.log10(0.5), abs=1e-4)
    power = ref.square().sum(-1)
    both = ref.sum(1).square().sum(-1)
    mixture = SnrPairs(snr_max=20, threshold="mixture")(ref, ref)[0].diag()
    torch.testing.assert_close(mixture, 10 * (0.01 * both / power[0]).log10(), rtol=1e-4, atol=1e-4)
    least = SnrPairs(snr_max=20, only_denominator=True)(ref, ref)[0].diag()
    torch.testing.assert_close(least, 10 * (0.01 * power[0]).log10(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("log", [False, True])
def test_several_resolutions_written_out(log):
    est, ref = noise(1, 2, 4000), noise(1, 2, 4000, seed=1)
    found = MultiResolutionPairs(log=log)(est, ref)[0, 1, 0]
    total = SnrPairs()(est, ref)[0, 1, 0] + (est[0, 1] - ref[0, 0]).abs().mean()
    for n_fft, length, hop in ((512, 400, 160), (1024, 800, 320), (2048, 1600, 640)):
        window = torch.nn.functional.pad(torch.hann_window(length), ((n_fft - length) // 2,) * 2)
        around = (n_fft // 2,) * 2
        frames = [torch.nn.functional.pad(x[None], around, mode="reflect")[0] for x in (est[0, 1], ref[0, 0])]
        one, other = (torch.fft.rfft(x.unfold(0, n_fft, hop) * window).abs() for x in frames)
        one, other = ((one + 1e-8).log(), (other + 1e-8).log()) if log else (one, other)
        total = total + (one - other).abs().mean() / 3
    torch.testing.assert_close(found, total)


def test_mixit_deals_outputs_to_the_mixtures_as_fits_best():
    parts = noise(2, 2, 400)  # two mixtures of two sources each
    mixtures = parts.sum(1)
    order = [2, 0, 3, 1]

    def perfect(total):
        exactly(total, mixtures.sum(0)[None])
        return parts.flatten(0, 1)[order][None]

    assert mixit_loss(perfect, mixtures, SnrPairs(snr_max=20)).item() == pytest.approx(-20, abs=1e-3)
    spoiled = mixit_loss(lambda total: perfect(total).roll(1, -1), mixtures, SnrPairs(snr_max=20))
    assert spoiled.item() > -5


def test_a_student_needs_an_output_for_every_source():
    shuffle = Shuffle(draw_orders(np.random.default_rng(0), 4, 3))
    with pytest.raises(InputError, match="2 outputs, for 3 sources"):
        remixed_loss(fir(noise(2, 5)), noise(4, 50), noise(4, 3, 50), shuffle, SnrPairs())


def test_more_outputs_than_sources_and_shorter_estimates():
    taps = noise(4, 5).requires_grad_()
    mixtures = noise(4, 60)
    sources = taught(lambda x: fir(noise(4, 5))(x)[..., :56], mixtures, 2)
    assert sources.shape == (4, 2, 56)
    torch.testing.assert_close(sources.sum(1), mixtures[:, :56])
    shuffle = Shuffle(draw_orders(np.random.default_rng(0), 4, 2))
    found = remixed_loss(lambda x: fir(taps)(x)[..., :50], mixtures, sources, shuffle, SnrPairs(), 0.5, 1.0, True)
    found.total.backward()
    torch.testing.assert_close(found.total, 0.5 * found.remixit + found.mixed)
    assert torch.isfinite(taps.grad).all() and taps.grad.any()
