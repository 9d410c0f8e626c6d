"""Beginning with parts of another model: what two architectures share goes by name into the new one.

Source: pre-training of a prompted separator by an unconditional twin that learned from mixtures alone, as proposed in
Saijo's doctoral thesis on task-aware unified source separation.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ussfast.errors import InputError

# What an unconditional twin calls its two stacks, and what a TUSS model calls them.
TWINS = {"first.": "cross_prompt.", "second.": "extraction."}


class Copied(NamedTuple):
    """tensors and numbers that were copied, of how many the new model has; rest: parts that stay as they were."""

    tensors: int
    of_tensors: int
    numbers: int
    of_numbers: int
    rest: tuple[str, ...]

    def __str__(self) -> str:
        share = 100 * self.numbers / self.of_numbers
        said = f"{self.tensors} of {self.of_tensors} tensors, {share:.0f} % of all numbers"
        return f"{said}; at random all or parts of {', '.join(self.rest)}" if self.rest else said


def initialise(model: nn.Module, source: nn.Module, where: str) -> Copied:
    """Copies into `model` every parameter of `source` of the same name and shape, the stacks of a twin by their names.

    Prompts are taken only from a model that knows the same ones. where: what `source` is called in errors.

    Raises:
        InputError: they share no parameter with more than one dimension.
    """
    target = dict(model.named_parameters())
    own = getattr(model, "prompt_names", ()) == getattr(source, "prompt_names", ())
    given = dict(source.named_parameters())
    if not any(name.startswith(tuple(TWINS)) for name in target):
        given |= {_twin(name): value for name, value in given.items()}
    shared = [name for name, value in target.items() if name in given and given[name].shape == value.shape]
    shared = [name for name in shared if own or name != "prompts"]
    if not any(target[name].dim() > 1 and name != "prompts" for name in shared):
        raise InputError(f"{where} has nothing in common with the recipe's model: no weights of equal names and shapes")
    with torch.no_grad():
        for name in shared:
            target[name].copy_(given[name])
    rest = dict.fromkeys(name.partition(".")[0] for name in target if name not in shared)
    return Copied(len(shared), len(target), _numbers(target, shared), _numbers(target, list(target)), tuple(rest))


def _twin(name: str) -> str:
    for old, new in TWINS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _numbers(tensors: Mapping[str, Tensor], names: list[str]) -> int:
    return sum(tensors[name].numel() for name in names)
