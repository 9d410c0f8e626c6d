"""One step of learning from mixtures alone: a teacher's estimates, remixed; a student's estimates, mixed back.

Pure functions: what is drawn comes from a NumPy generator, or is given.

Source: Saijo and Ogawa, "Self-Remixing: Unsupervised speech separation via separation and remixing", ICASSP 2023, and
"Remixing-based unsupervised source separation from scratch", Interspeech 2023; Tzinis et al., "RemixIT: Continual
self-training of speech enhancement models via bootstrapped remixing", IEEE JSTSP 2022.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ussfast.errors import InputError
from ussfast.long_audio.permutation import PairLoss, best_permutation, cut, to_device

Separate = Callable[[Tensor], Tensor]  # [batch, samples] -> [batch, outputs, samples]
EXHAUSTIVE = 3  # sources up to which all permutations are tried
TRIES = 1000  # draws of one permutation


class Shuffle(NamedTuple):
    """How a batch is remixed; indices, int64.

    orders: [sources, batch]: item b of the pseudo mixtures gets its source i from item orders[i, b].
    channels: [batch, sources], before that: source i of item b becomes its source channels[b, i]; None leaves them.
    """

    orders: Tensor
    channels: Tensor | None = None


class Remixed(NamedTuple):
    """total is what is differentiated, remixit and mixed its parts without their weights: scalars."""

    total: Tensor
    remixit: Tensor
    mixed: Tensor


def loudest(sources: Tensor, count: int) -> Tensor:
    """The `count` most energetic sources of each item, in the order that they were in.

    sources: [batch, sources, samples] -> [batch, count, samples]; all of them if there are no more.
    """
    if sources.shape[1] <= count:
        return sources
    chosen = sources.square().mean(-1).topk(count, 1).indices.sort(1).values
    return sources.gather(1, chosen[:, :, None].expand(-1, -1, sources.shape[-1]))


def consistent(sources: Tensor, mixture: Tensor) -> Tensor:
    """Sources [batch, sources, samples] that sum to mixture [batch, samples]: each takes an equal share of the rest.

    Source: Wisdom et al., "Differentiable consistency constraints for improved deep speech enhancement", ICASSP 2019.
    """
    return sources + ((mixture - sources.sum(1)) / sources.shape[1])[:, None]


def draw_orders(rng: np.random.Generator, batch: int, sources: int, constrained: bool = True) -> Tensor:
    """Permutations of a batch, one per source: int64 [sources, batch].

    constrained: they disagree everywhere, so that no two sources of a pseudo mixture are from the same mixture; only
        where there are at least as many items as sources, else they are drawn independently.
    """
    free = not constrained or batch < sources
    drawn: list[np.ndarray] = []
    for _ in range(sources):
        order = rng.permutation(batch)
        for _ in range(TRIES):
            if free or all((order != other).all() for other in drawn):
                break
            order = rng.permutation(batch)
        else:
            # Of so many sources hardly any permutation is left: one that is, by going round.
            return torch.from_numpy(np.stack([np.roll(drawn[0], i) for i in rng.permutation(batch)[:sources]]))
        drawn.append(order)
    return torch.from_numpy(np.stack(drawn).astype(np.int64))


def draw_channels(rng: np.random.Generator, batch: int, sources: int, keep_last: bool = False) -> Tensor:
    """A permutation of the sources of each item: int64 [batch, sources]; `keep_last` leaves the last one in place."""
    free = sources - keep_last
    rows = [[*rng.permutation(free), *range(free, sources)] for _ in range(batch)]
    return torch.tensor(rows, dtype=torch.int64)


def shuffled(sources: Tensor, shuffle: Shuffle) -> Tensor:
    """[batch, sources, samples] -> the same shape: what pseudo mixtures consist of."""
    batch, count, samples = sources.shape
    if shuffle.channels is not None:
        chosen = shuffle.channels.to(sources.device)[:, :, None].expand(-1, -1, samples)
        sources = sources.gather(1, chosen)
    slots = torch.arange(count, device=sources.device)
    return sources[shuffle.orders.to(sources.device).T, slots]


def put_back(sources: Tensor, orders: Tensor) -> Tensor:
    """Undoes the shuffle of the batch, not that of channels: [batch, sources, samples] -> the same shape."""
    inverse = orders.argsort(1).to(sources.device)
    return sources[inverse.T, torch.arange(len(orders), device=sources.device)]


def assigned(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and estimate indices of the best one-to-one assignment, [batch, ref] each, of pairs [batch, est, ref]:
    of all permutations up to three sources, by the Hungarian algorithm above."""
    if pairs.shape[-1] <= EXHAUSTIVE:
        return best_permutation(pairs)
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise InputError(f"more than {EXHAUSTIVE} sources need scipy: pip install 'ussfast[train]'") from None
    values = pairs.detach().double().cpu()
    costs = torch.nan_to_num(values, nan=1e30, posinf=1e30, neginf=-1e30).numpy()
    found = to_device([int(i) for cost in costs for i in linear_sum_assignment(cost.T)[1]], pairs.device)
    orders = found.view(len(pairs), -1)
    return pairs.gather(1, orders[:, None])[:, 0], orders


def remixed_loss(
    student: Separate,
    mixtures: Tensor,
    sources: Tensor,
    shuffle: Shuffle,
    pairs: PairLoss,
    remixit_weight: float = 0.0,
    mixed_weight: float = 1.0,
    student_consistency: bool = False,
) -> Remixed:
    """The losses of a batch: Self-Remixing compares mixtures that are mixed back with the mixtures, RemixIT estimates
    with the teacher's.

    Args:
        student: what learns.
        mixtures: [batch, samples].
        sources: [batch, sources, samples] of the teacher, as `taught` gives them.
        pairs: loss of every pair of an estimate and a reference, such as `SnrPairs`.
        remixit_weight, mixed_weight: (0, 1) is Self-Remixing, (1, 0) RemixIT.
        student_consistency: lets the student's estimates sum to the pseudo mixture.
    Raises:
        InputError: a student with fewer outputs than there are sources.
    """
    references = shuffled(sources, shuffle)
    pseudo = references.sum(1)
    found = student(pseudo)
    if found.shape[1] < references.shape[1]:
        raise InputError(f"the student has {found.shape[1]} outputs, for {references.shape[1]} sources to remix")
    found, references = cut(loudest(found, references.shape[1]), references)
    if student_consistency:
        found = consistent(found, pseudo[:, : found.shape[-1]])
    losses, order = assigned(pairs(found, references))
    remixit = losses.mean()
    # In the order of the sources also where RemixIT has no weight: else nothing could be put back.
    matched = found.gather(1, order[:, :, None].expand(-1, -1, found.shape[-1]))
    again, wanted = cut(put_back(matched, shuffle.orders).sum(1), mixtures)
    mixed = pairs(again[:, None], wanted[:, None]).mean()
    return Remixed(remixit_weight * remixit + mixed_weight * mixed, remixit, mixed)


@torch.no_grad()
def taught(teacher: Separate, mixtures: Tensor, count: int, consistency: bool = True) -> Tensor:
    """[batch, count, samples] of the teacher's outputs, the loudest if there are more; without gradients."""
    found = loudest(teacher(mixtures), count)
    found, mixtures = cut(found, mixtures)
    return consistent(found, mixtures) if consistency else found


def mixit_loss(student: Separate, mixtures: Tensor, pairs: PairLoss, student_consistency: bool = False) -> Tensor:
    """Mixture invariant training: estimates of the sum of two mixtures are dealt out to both as fits best: a scalar.

    Args:
        mixtures: [2 * pairs, samples]; neighbours are summed.
    Source: Wisdom et al., "Unsupervised sound separation using mixture invariant training", NeurIPS 2020.
    """
    both = mixtures.unflatten(0, (-1, 2))
    total = both.sum(1)
    found = student(total)
    found, both = cut(found, both)
    if student_consistency:
        found = consistent(found, total[:, : found.shape[-1]])
    outputs = found.shape[1]
    # Every way but the two that leave a mixture with nothing.
    bits = torch.tensor([[c >> i & 1 for i in range(outputs)] for c in range(1, 2**outputs - 1)], dtype=found.dtype)
    first = torch.einsum("co,bon->bcn", bits.to(found.device), found)
    second = found.sum(1, keepdim=True) - first
    losses = pairs(first, both[:, :1])[..., 0] + pairs(second, both[:, 1:])[..., 0]
    return losses.min(1).values.mean() / 2
