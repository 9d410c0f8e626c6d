"""Low-rank additions to matrices: they learn while the matrices stay, and are added to them in the end.

Source: Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ussfast.errors import InputError

RANK = 8
# How torch's parametrizations call what is behind a weight: the weight itself, and what is added.
INSIDE = ".parametrizations."
BASE, DOWN, UP = ".original", ".0.down", ".0.up"


class LowRank(nn.Module):
    """weight + up @ down; up begins with zeros, so that the sum begins as the weight."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        rows, columns = weight.shape
        rank = min(rank, rows, columns)
        self.down = nn.Parameter(torch.randn(rank, columns, device=weight.device) / math.sqrt(columns))
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def low_rank_names(model: nn.Module, beginnings: tuple[str, ...]) -> list[str]:
    """Of the matrices of these parts that additions can be made to, InputError where there are none."""
    found = [n for n, p in model.named_parameters() if p.dim() == 2 and min(p.shape) > 1 and n.startswith(beginnings)]
    if not found:
        raise InputError("the model has no matrices that low-rank additions could be made to: train another part")
    return found


def add_low_rank(model: nn.Module, names: Iterable[str], rank: int = RANK) -> list[str]:
    """Puts additions to the weights of these names, which are in modules of the model; the names of all that is new."""
    found = []
    for name in list(names):
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        parametrize.register_parametrization(module, own, LowRank(getattr(module, own), rank))
        inside = f"{owner}{INSIDE}{own}"
        found += [inside + DOWN, inside + UP]
    return found


def merged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the ordinary model: additions are in the weights. One without any stays as it is.

    KeyError or RuntimeError for one that lacks part of an addition, or has one of another shape.
    """
    found = {}
    for name, value in weights.items():
        if INSIDE not in name:
            found[name] = value
        elif name.endswith(BASE):
            inside = name.removesuffix(BASE)
            owner, _, own = inside.partition(INSIDE)
            found[f"{owner}.{own}"] = value + weights[inside + UP] @ weights[inside + DOWN]
    return found
