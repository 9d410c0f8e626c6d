"""Muon: its update against the singular value decomposition, its steps against the rule, one matrix at a time."""

import copy
import math

import pytest
import torch

from ussfast.errors import InputError
from ussfast.train.muon import Muon, orthogonalize


def svd_orthogonal(matrix):
    u, _, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (u @ vt).to(matrix.dtype)


@pytest.mark.parametrize("shape", [(24, 24), (64, 16), (16, 64), (1, 40)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_updates_are_nearly_orthogonal(shape, scale):
    matrices = torch.randn(3, *shape) * scale
    found = orthogonalize(matrices)
    # The quintic ends between 0.68 and 1.14 for singular values above 1/100 of the norm; square noise has smaller.
    singular = torch.linalg.svdvals(found)
    assert singular.max() < 1.3 and singular[:, : max(1, min(shape) * 3 // 4)].min() > 0.6
    if shape[0] != shape[1]:
        assert singular.min() > 0.6
    for matrix, got in zip(matrices, found, strict=True):
        want = svd_orthogonal(matrix)
        # Same singular vectors: both factors take the update apart into a diagonal within the accuracy.
        assert torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.97
        u, _, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
        inner = u.mT @ got.double() @ vt.mT
        assert (inner - inner.diagonal().diag()).abs().max() < 1e-4


def test_more_than_enough_iterations_of_a_good_matrix():
    """A matrix that is orthogonal already stays within the accuracy of the iteration, and zeros stay zeros."""
    q = torch.linalg.qr(torch.randn(16, 16)).Q
    assert (orthogonalize(q) - q).norm() / q.norm() < 0.35
    assert not orthogonalize(torch.zeros(2, 4, 6)).any()


def plain_step(weight, grad, momentum, lr, decay):
    """The rule for one matrix, with the exact factor; returns the weight and the momentum."""
    momentum = 0.95 * momentum + 0.05 * grad
    ahead = 0.05 * grad + 0.95 * momentum
    matrix = ahead.reshape(len(ahead), -1)
    update = orthogonalize(matrix).reshape(grad.shape) * 0.2 * math.sqrt(max(matrix.shape))
    return weight * (1 - lr * decay) - lr * update, momentum


def test_batched_steps_are_those_of_single_matrices():
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in [(6, 4), (6, 4), (4, 6), (6, 4, 3), (6, 4, 3)]]
    expected = [(w.detach().clone(), torch.zeros_like(w)) for w in weights]
    optimizer = Muon(weights, lr=0.02, weight_decay=0.1)
    for _ in range(4):
        grads = [torch.randn_like(w) for w in weights]
        for w, grad in zip(weights, grads, strict=True):
            w.grad = grad
        optimizer.step()
        expected = [plain_step(w, g, m, 0.02, 0.1) for (w, m), g in zip(expected, grads, strict=True)]
    for w, (want, _) in zip(weights, expected, strict=True):
        torch.testing.assert_close(w.detach(), want, rtol=1e-5, atol=1e-6)


def test_updates_have_the_size_of_adamws():
    weight = torch.nn.Parameter(torch.zeros(48, 32, 3))
    weight.grad = torch.randn_like(weight)
    Muon([weight], lr=1.0, weight_decay=0.0).step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.15)


def test_a_quadratic_falls():
    target = torch.randn(12, 8)
    weight = torch.nn.Parameter(torch.zeros(12, 8))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.0)
    losses = []
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 300)
        loss = (weight - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-3 * losses[0]


def test_the_state_is_all_there_is():
    def run(weight, optimizer, seed):
        torch.manual_seed(seed)
        for _ in range(3):
            weight.grad = torch.randn_like(weight)
            optimizer.step()

    straight = torch.nn.Parameter(torch.ones(4, 5))
    optimizer = Muon([straight], lr=0.1)
    run(straight, optimizer, 1)
    resumed = torch.nn.Parameter(straight.detach().clone())
    state = copy.deepcopy(optimizer.state_dict())
    run(straight, optimizer, 2)
    other = Muon([resumed], lr=0.5)
    other.load_state_dict(state)
    run(resumed, other, 2)
    assert torch.equal(straight, resumed)


def test_what_it_takes():
    with pytest.raises(InputError, match=r"dimension 2 or 3, got shapes \[\[7\]\]"):
        Muon([torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(7))])
    idle = torch.nn.Parameter(torch.ones(2, 2))
    Muon([idle], lr=1.0).step()
    assert torch.equal(idle, torch.ones(2, 2))
