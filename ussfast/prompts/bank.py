"""Prompts: named vectors in one model's prompt space, and the labels that results carry."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ussfast.errors import PromptError
from ussfast.models import SpectralModel
from ussfast.prompts.names import check_prompts, equal_groups, number_repeats, unknown_prompt

__all__ = ["Plan", "Prompt", "PromptBank", "check_prompts", "equal_groups", "make_plan", "number_repeats"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """vector: float32 [dim] in the model's prompt space.

    kind: "class" prompts come with the checkpoint, "enrolled" ones are made from example clips.
    """

    name: str
    vector: Tensor
    kind: Literal["class", "enrolled"] = "class"

    def __repr__(self) -> str:
        return f"Prompt({self.name}: {self.kind}, {len(self.vector)} numbers)"


class PromptBank(Mapping[str, Prompt]):
    """The prompts of one model by name; empty for unconditional models."""

    def __init__(self, model: SpectralModel):
        names = model.prompt_names
        vectors = model.prompt_vectors(names) if names else None
        self._prompts = (
            {} if vectors is None else {n: Prompt(n, v.detach()) for n, v in zip(names, vectors, strict=True)}
        )

    def __getitem__(self, name: str) -> Prompt:
        try:
            return self._prompts[name]
        except KeyError:
            raise PromptError(unknown_prompt(name, tuple(self._prompts))) from None

    def add(self, prompt: Prompt) -> None:
        """Keeps an enrolled prompt under its name, in place of an older one; PromptError for that of a class prompt."""
        known = self._prompts.get(prompt.name)
        if known is not None and known.kind == "class":
            raise PromptError(f"{prompt.name!r} is a class prompt of this model; choose another name")
        self._prompts[prompt.name] = prompt

    def __contains__(self, name: object) -> bool:
        return name in self._prompts

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def __len__(self) -> int:
        return len(self._prompts)

    def __repr__(self) -> str:
        return f"PromptBank({', '.join(self._prompts)})"


@dataclass(frozen=True, eq=False)
class Plan:
    """What a separation returns, and what the model needs for it.

    labels: of the stems, repeated prompts numbered. keys: name and number among equal ones: what a source is called
    whatever else is asked for. vectors: [sources, dim], None for models without prompts. groups: indices of sources
    that may be exchanged with one another.
    """

    labels: tuple[str, ...]
    keys: tuple[tuple[str, int], ...]
    vectors: Tensor | None
    groups: tuple[tuple[int, ...], ...]


def make_plan(prompts: Sequence[str] | str, bank: PromptBank, sources: tuple[str, ...], fixed: bool) -> Plan:
    """Plan for these prompts; PromptError as `check_prompts`.

    Args:
        sources: labels of a model without prompts; fixed: whether they always come out in that order.
    """
    names = check_prompts(prompts, tuple(bank))
    if bank:
        keys = tuple((name, names[:i].count(name)) for i, name in enumerate(names))
        return Plan(number_repeats(names), keys, torch.stack([bank[n].vector for n in names]), equal_groups(names))
    # Without names of its own, a source may come out in any place of the next window.
    groups = () if fixed else (tuple(range(len(sources))),)
    return Plan(sources, tuple((label, 0) for label in sources), None, groups)
