"""Masks of embeddings: k-means over the loud bins, and how near each bin is to each centre.

Sources: Hershey, Chen, Le Roux and Watanabe, "Deep clustering: Discriminative embeddings for segmentation and
separation", ICASSP 2016 (clustering of loud bins); the soft masks are those of Manilow, Seetharaman and Pardo, "The
Northwestern University Source Separation Library", ISMIR 2018.
"""

import warnings

import torch
from torch import Tensor

from ussfast.errors import InputError

LOUD = 0.9  # of all bins are fainter than those that are clustered
SHARPNESS, LEAST = 5.0, 1e-8
STARTS = 10  # of k-means, of which the best counts
EXTRA = "clustering"


def cluster_masks(embedding: Tensor, magnitude: Tensor, clusters: int) -> Tensor:
    """Soft masks that add up to 1, the same each time for the same numbers; their order is free.

    Args:
        embedding: [batch, frames, bins, n]. magnitude: [batch, frames, bins], of the mixture.
        clusters: how many sources there are.
    Returns:
        [batch, frames, bins, clusters], float32, on the device of `embedding`; without gradients.
    Raises:
        InputError: scikit-learn is missing.
    """
    with torch.no_grad():
        items = zip(embedding.detach().float(), magnitude.detach().float(), strict=True)
        return torch.stack([_masks(rows.flatten(0, 1), level.flatten(), clusters) for rows, level in items]).unflatten(
            1, magnitude.shape[1:]
        )


def _masks(rows: Tensor, level: Tensor, clusters: int) -> Tensor:
    """[bins, n], [bins] -> [bins, clusters]."""
    loud = rows[level >= _threshold(level)]
    if len(loud) < clusters:  # a few bins in all
        loud = rows
    if len(loud) < clusters:
        return rows.new_full((len(rows), clusters), 1 / clusters)
    distance = torch.cdist(rows, _centres(loud, clusters), compute_mode="donot_use_mm_for_euclid_dist")
    nearness = (-SHARPNESS * distance).exp() + LEAST
    return nearness / nearness.sum(-1, keepdim=True)


def _threshold(level: Tensor) -> Tensor:
    """The percentile, between the two values next to it in proportion; torch.quantile has a limit of 16 million."""
    place = LOUD * (len(level) - 1)
    below = int(place)
    lower = level.kthvalue(below + 1).values
    upper = level.kthvalue(min(below + 2, len(level))).values
    return lower + (upper - lower) * (place - below)


def _centres(rows: Tensor, clusters: int) -> Tensor:
    """[clusters, n]."""
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise InputError(f"separating by clusters needs scikit-learn: pip install 'ussfast[{EXTRA}]'") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer kinds of rows than clusters, as in digital silence
        found = KMeans(clusters, n_init=STARTS, random_state=0).fit(rows.cpu().numpy())
    return torch.from_numpy(found.cluster_centers_).to(rows.device, rows.dtype)
