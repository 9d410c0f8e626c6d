"""Losses of deep clustering and mask inference: what a ChimeraNet is trained on.

Sources: Hershey, Chen, Le Roux and Watanabe, "Deep clustering: Discriminative embeddings for segmentation and
separation", ICASSP 2016; Wang, Le Roux and Hershey, "Alternative objective functions for deep clustering", ICASSP 2018
(weights, whitened k-means); Erdogan, Hershey, Watanabe and Le Roux, "Phase-sensitive and recognition-boosted speech
separation using deep recurrent neural networks", ICASSP 2015; Luo, Chen, Hershey, Le Roux and Mesgarani, "Deep
clustering and conventional networks for music separation: Stronger together", ICASSP 2017 (both at once). The numbers
are those of nussl 1.1.9 (Manilow, Seetharaman and Pardo, ISMIR 2018).

Tensors are [batch, frames, bins] of the mixture and [batch, frames, bins, sources] of sources; all losses are means
over the batch.
"""

from itertools import permutations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError

Kind = Literal["l1", "mse"]
Permutation = Literal["fixed", "bin", "utterance"]
MOST_SOURCES = 6  # whose permutations are all tried
_TINY = 1e-8


def magnitude_weights(magnitude: Tensor) -> Tensor:
    """What bins count for in `deep_clustering`: the roots of their share of the item's magnitude, times the number of
    bins. Without gradients.

    Args:
        magnitude: [batch, frames, bins], of the mixture.
    Returns:
        the same shape.
    """
    with torch.no_grad():
        share = magnitude / (magnitude.sum((-2, -1), keepdim=True) + 1e-6)
        return (share * (magnitude.shape[-2] * magnitude.shape[-1])).sqrt()


def ideal_binary_mask(magnitudes: Tensor) -> Tensor:
    """1 for the loudest source of a bin, 0 for the others; where several are, for none.

    Args:
        magnitudes: [..., sources].
    """
    loudest = (magnitudes == magnitudes.amax(-1, keepdim=True)).to(magnitudes.dtype)
    return (loudest / loudest.sum(-1, keepdim=True) > 0.5).to(magnitudes.dtype)


def phase_sensitive_target(sources: Tensor, mixture: Tensor, least: float = 0.0, most: float = 1.0) -> Tensor:
    """What a real mask can reach at best: the part of each source that has the phase of the mixture.

    Args:
        sources: [batch, frames, bins, sources] complex. mixture: [batch, frames, bins] complex.
        least, most: limits of the target, as shares of the mixture's magnitude.
    Returns:
        [batch, frames, bins, sources], real.
    """
    size = mixture.abs()[..., None]
    along = (sources * mixture.conj()[..., None]).real / size.clamp(min=torch.finfo(size.dtype).tiny)
    return torch.minimum(torch.maximum(along, least * size), most * size)


def deep_clustering(
    embedding: Tensor, assignment: Tensor, weights: Tensor | None = None, normalized: bool = True
) -> Tensor:
    """How far the affinities of embeddings are from those of the assignment.

    Args:
        embedding: [batch, frames, bins, n]; normalised to length 1 here.
        assignment: [batch, frames, bins, sources], such as `ideal_binary_mask`; normalised to length 1, a bin of no
            source stays without.
        weights: [batch, frames, bins], that multiply rows of both: roots of what a pair's bins count for. None: all 1.
        normalized: divides by the square of the sum of squared weights, the number of pairs. Without, it is the squared
            Frobenius norm as it was published first, which grows with the excerpt's length.
    """
    v, y = _rows(embedding, weights), _rows(assignment, weights)
    total = _energy(v.mT @ v) - 2 * _energy(v.mT @ y) + _energy(y.mT @ y)
    if normalized:
        count = embedding.shape[1] * embedding.shape[2]
        mass = total.new_full((len(total),), count) if weights is None else weights.float().square().sum((1, 2))
        total = total / (mass.square() + _TINY)
    return total.mean()


def whitened_kmeans(embedding: Tensor, assignment: Tensor, weights: Tensor | None = None) -> Tensor:
    """What a k-means of whitened embeddings would leave unexplained; arguments as for `deep_clustering`."""
    v, y = _rows(embedding, weights), _rows(assignment, weights)
    cross = v.mT @ y
    left = torch.linalg.solve(_plus_identity(v.mT @ v), cross)
    right = torch.linalg.solve(_plus_identity(y.mT @ y), cross.mT)
    explained = (left.mT * right).sum((-2, -1))
    return (v.shape[-1] + y.shape[-1] - 2 * explained).mean()


def magnitude_loss(
    estimates: Tensor, references: Tensor, kind: Kind = "l1", permutation: Permutation = "fixed"
) -> Tensor:
    """The mean difference of magnitudes.

    Args:
        estimates, references: [batch, frames, bins, sources]; masks times the mixture's magnitude, and magnitudes of
            the sources or `phase_sensitive_target`.
        kind: "l1" or "mse".
        permutation: "fixed" order of sources; the best one for each "utterance" (an item of the batch); or the best one
            for each "bin", as nussl computes it around losses of single values: lower, and its estimates may mix
            sources.
    Raises:
        InputError: shapes that differ, a kind or rule that there is not, more sources than MOST_SOURCES to permute.
    """
    if estimates.shape != references.shape or estimates.dim() != 4:
        raise InputError(
            "magnitude_loss needs estimates and references [batch, frames, bins, sources], got "
            f"{list(estimates.shape)} and {list(references.shape)}"
        )
    if kind not in ("l1", "mse") or permutation not in ("fixed", "bin", "utterance"):
        raise InputError(
            f"kind must be l1 or mse and permutation fixed, bin or utterance, got {kind!r} and {permutation!r}"
        )
    estimates, references = estimates.float(), references.float()
    if permutation == "fixed":
        return _differences(estimates, references, kind).mean()
    count = estimates.shape[-1]
    if count > MOST_SOURCES:
        raise InputError(f"permutations of {count} sources are too many: {MOST_SOURCES} at most")
    each = []
    for order in permutations(range(count)):
        loss = _differences(estimates, references[..., list(order)], kind).mean(-1)
        each.append(loss if permutation == "bin" else loss.mean((1, 2)))
    return torch.stack(each, -1).amin(-1).mean()


def _differences(estimates: Tensor, references: Tensor, kind: str) -> Tensor:
    apart = estimates - references
    return apart.abs() if kind == "l1" else apart.square()


def _rows(x: Tensor, weights: Tensor | None) -> Tensor:
    """[batch, frames, bins, n] -> [batch, bins in all, n] of length 1, times their weights."""
    rows = F.normalize(x.float(), dim=-1)
    return (rows if weights is None else rows * weights.float()[..., None]).flatten(1, 2)


def _energy(matrix: Tensor) -> Tensor:
    return matrix.square().sum((-2, -1))


def _plus_identity(matrix: Tensor) -> Tensor:
    return matrix + torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
