"""What teaches the query encoder which clips are of one kind, without waiting for masks to tell.

Source: van den Oord, Li and Vinyals, "Representation learning with contrastive predictive coding", 2018 (the loss);
Khosla et al., "Supervised contrastive learning", NeurIPS 2020 (clips of one label as pairs).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.train.queries import QueryPicker
from ussfast.train.rendering import AugmentConfig, Crop

EFFECTS = 0.6  # share of pairs that are of a kind of sound effect
TEMPERATURE = 0.1
UNCHANGED = AugmentConfig()


def draw_pairs(
    picker: QueryPicker, count: int, rng: np.random.Generator, augment: AugmentConfig = UNCHANGED
) -> list[Crop]:
    """Two clips, of different items, of each of `count` kinds: first one of every kind, then the other of every kind.

    Fewer where there are not so many kinds with two items that can be heard. augment: how both of a kind may be moved
    in pitch and duration, see `QueryPicker`.
    """
    several = [key for key, items in picker.alike.items() if len(items) > 1]
    effects = [key for key in several if key[0] == "sfx"]
    others = [key for key in several if key[0] != "sfx"]
    share = round(EFFECTS * count) if others else count
    kinds = [k for keys, n in ((effects, share), (others, count - share)) for k in _some(keys, n, rng)]
    first, second = list[Crop](), list[Crop]()
    for kind in kinds:
        if (found := picker.pair(picker.alike[kind], augment, rng)) is not None:
            first.append(found[0])
            second.append(found[1])
    return first + second


def _some(keys: list[tuple[str, str]], count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    return [keys[i] for i in rng.choice(len(keys), min(count, len(keys)), replace=False)] if keys else []


def contrast_loss(embeddings: Tensor) -> Tensor:
    """How badly the other clip of each kind is told from clips of other kinds: mean cross-entropy in nats, a scalar.

    Args:
        embeddings: [2 * kinds, dim], in the order of `draw_pairs`.
    """
    unit = F.normalize(embeddings.float(), dim=-1)
    likeness = unit @ unit.T / TEMPERATURE
    likeness = likeness.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), -torch.inf)
    other = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
    return F.cross_entropy(likeness, other)
