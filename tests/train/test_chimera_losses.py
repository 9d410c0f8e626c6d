"""Losses of deep clustering and mask inference: recorded numbers, definitions written out, what must not become NaN."""

import math

import pytest
import torch
from golden_io import arrays

from ussfast import stft
from ussfast.errors import InputError
from ussfast.stft import StftConfig
from ussfast.train.chimera_losses import (
    deep_clustering,
    ideal_binary_mask,
    magnitude_loss,
    magnitude_weights,
    phase_sensitive_target,
    whitened_kmeans,
)

TOLERANCE = 1e-5
STFT = StftConfig(128, 32, 128, normalize="window")


@pytest.fixture(scope="module")
def given():
    return arrays("chimera_tiny", "inputs")


@pytest.fixture(scope="module")
def wanted():
    return arrays("chimera_tiny", "outputs")


@pytest.fixture(scope="module")
def magnitudes(given):
    """[1, frames, bins, sources]."""
    return stft.analyze(given["sources"], STFT).abs().permute(1, 2, 0)[None]


def close(actual, expected, tolerance=TOLERANCE):
    assert actual.item() == pytest.approx(float(expected), rel=tolerance)


def test_targets_and_weights_are_the_recorded_ones(given, magnitudes):
    assert torch.equal(ideal_binary_mask(magnitudes)[0], given["ideal_binary_mask"].float())
    weights = magnitude_weights(given["mix_magnitude"][None])[0]
    torch.testing.assert_close(weights, given["weights"], rtol=TOLERANCE, atol=TOLERANCE)


def test_recorded_losses(given, wanted, magnitudes):
    embedding, weights = wanted["embedding"][None], given["weights"][None]
    assignment, estimates = given["ideal_binary_mask"][None].float(), wanted["estimates"][None]
    close(deep_clustering(embedding, assignment, weights), wanted["loss_deep_clustering"])
    close(whitened_kmeans(embedding, assignment, weights), wanted["loss_whitened_kmeans"])
    close(magnitude_loss(estimates, magnitudes), wanted["loss_l1"])
    close(magnitude_loss(estimates, magnitudes, "mse"), wanted["loss_mse"])
    close(magnitude_loss(estimates, magnitudes, permutation="bin"), wanted["loss_pit_l1"])


def drawn(*size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def test_deep_clustering_is_the_difference_of_affinities():
    embedding, assignment, weights = drawn(2, 3, 4, 5), drawn(2, 3, 4, 2, seed=1), drawn(2, 3, 4, seed=2)
    total = []
    for v, y, w in zip(embedding.flatten(1, 2), assignment.flatten(1, 2), weights.flatten(1), strict=True):
        v, y = v / v.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
        pairs = (v @ v.T - y @ y.T) * w[:, None] * w[None]
        total.append((pairs.square().sum(), w.square().sum() ** 2))
    close(deep_clustering(embedding, assignment, weights), sum(a / b for a, b in total) / 2)
    close(deep_clustering(embedding, assignment, weights, normalized=False), sum(a for a, _ in total) / 2)
    ones = torch.ones_like(weights)
    close(deep_clustering(embedding, assignment), deep_clustering(embedding, assignment, ones))


def test_whitened_kmeans_sees_no_linear_map_of_the_embeddings():
    """Of many rows: the identity that is added hardly counts."""
    assignment = ideal_binary_mask(drawn(1, 40, 50, 3, seed=1))
    mixing = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))[0]
    perfect = whitened_kmeans(assignment @ mixing, assignment)
    assert perfect.item() < 0.02 < 2 < whitened_kmeans(drawn(1, 40, 50, 3), assignment).item()


def test_what_a_bin_of_nothing_or_of_equals_is():
    magnitudes = torch.tensor([[3.0, 1.0], [2.0, 2.0], [0.0, 0.0]])
    assert ideal_binary_mask(magnitudes).tolist() == [[1, 0], [0, 0], [0, 0]]
    three = torch.tensor([1.0, 1.0, 0.5])
    assert ideal_binary_mask(three).tolist() == [0, 0, 0]


def test_phase_sensitive_target():
    mixture = torch.tensor([2.0 + 0j, 2j, 0j]).view(1, 1, 3)
    angle = math.pi / 3
    source = torch.tensor([complex(math.cos(angle), math.sin(angle)), -1 + 5j, 1 + 1j]).view(1, 1, 3, 1)
    # A part of it, all there is (more would be louder than the mixture), nothing to have a phase of.
    torch.testing.assert_close(phase_sensitive_target(source, mixture).flatten(), torch.tensor([0.5, 2.0, 0.0]))
    against = phase_sensitive_target(-source, mixture)
    assert against.flatten().tolist() == [0, 0, 0]
    free = phase_sensitive_target(-source, mixture, least=-2.0, most=2.0)
    torch.testing.assert_close(free.flatten(), torch.tensor([-0.5, -4.0, 0.0]))


def test_the_best_order_of_an_utterance_and_of_every_bin():
    references = drawn(2, 3, 4, 3)
    swapped = references.clone()
    swapped[1] = swapped[1][..., [2, 0, 1]]  # one item of the batch only
    assert magnitude_loss(swapped, references, permutation="utterance").item() == 0
    assert magnitude_loss(swapped, references).item() > 0.1
    swapped[0, 1] = swapped[0, 1][..., [1, 0, 2]]  # a frame of it: no order of the whole item fits
    assert magnitude_loss(swapped, references, permutation="bin").item() == 0
    bins, whole, fixed = (
        magnitude_loss(swapped, references, "mse", permutation=rule) for rule in ("bin", "utterance", "fixed")
    )
    assert bins < whole < fixed


def test_gradients_are_finite_where_there_is_silence():
    magnitude = torch.zeros(2, 4, 5)
    magnitude[0, 1:3] = drawn(2, 5)
    weights, assignment = magnitude_weights(magnitude), ideal_binary_mask(torch.stack((magnitude, 0 * magnitude), -1))
    assert weights.isfinite().all() and not weights[1].any()
    embedding = torch.zeros(2, 4, 5, 3)
    embedding[0] = drawn(4, 5, 3)
    for loss in (deep_clustering, whitened_kmeans):
        leaf = embedding.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, assignment, weights), leaf)
        assert gradient.isfinite().all() and gradient[0].any()


def test_arguments():
    x = drawn(1, 2, 3, 2)
    with pytest.raises(InputError, match=r"got \[1, 2, 3, 2\] and \[1, 2, 3\]"):
        magnitude_loss(x, x[..., 0])
    with pytest.raises(InputError, match="got 'l2' and 'fixed'"):
        magnitude_loss(x, x, "l2")
    with pytest.raises(InputError, match="fixed, bin or utterance, got 'l1' and 'frame'"):
        magnitude_loss(x, x, permutation="frame")
    many = drawn(1, 1, 2, 7)
    assert magnitude_loss(many, many).item() == 0
    with pytest.raises(InputError, match="7 sources are too many: 6 at most"):
        magnitude_loss(many, many, permutation="bin")
