"""Prompts: named vectors in one model's prompt space, and the labels that results carry."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ussfast.errors import PromptError
from ussfast.models import SpectralModel
from ussfast.prompts.names import (
    as_names,
    check_name,
    check_prompts,
    check_repeats,
    equal_groups,
    number_repeats,
    unknown_prompt,
)  # fmt: skip
from ussfast.prompts.origin import Origin

__all__ = [
    "Plan", "Prompt", "PromptBank", "as_names", "check_prompts", "equal_groups", "make_plan", "number_repeats",
    "plan_of",
]  # fmt: skip


Kind = Literal["class", "enrolled", "tuned"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """vector: float32 [dim] in the model's prompt space.

    kind: "class" prompts come with the checkpoint, "enrolled" ones are made from example clips, "tuned" ones learned
        from them.
    origin: what an enrolled or tuned one was made of; None for a vector from elsewhere.
    """

    name: str
    vector: Tensor
    kind: Kind = "class"
    origin: Origin | None = None

    def __repr__(self) -> str:
        return f"Prompt({self.name}: {self.kind}, {len(self.vector)} numbers)"


def check_vector(name: str, vector: Tensor, size: int) -> None:
    """PromptError for a vector of another size, or with numbers that are not finite."""
    if vector.shape != (size,):
        raise PromptError(f"{name!r}: a vector of {size} numbers is needed, not {list(vector.shape)}")
    if not torch.isfinite(vector).all():
        raise PromptError(f"{name!r}: its vector has numbers that are not finite")


class PromptBank(Mapping[str, Prompt]):
    """The prompts of one model by name; empty for unconditional models, and at first for those whose prompts have none.

    equal_prompts, prompt_size: of the model, see `SpectralModel`.
    """

    def __init__(self, model: SpectralModel):
        self.equal_prompts, self.prompt_size = model.equal_prompts, model.prompt_size
        names = model.prompt_names
        vectors = model.prompt_vectors(names) if names else None
        self._prompts = (
            {} if vectors is None else {n: Prompt(n, v.detach()) for n, v in zip(names, vectors, strict=True)}
        )

    def __getitem__(self, name: str) -> Prompt:
        try:
            return self._prompts[name]
        except KeyError:
            raise PromptError(unknown_prompt(name, tuple(self._prompts), self.prompt_size is not None)) from None
        except TypeError:
            raise PromptError(f"a prompt is looked up by its name, not by {type(name).__name__}") from None

    def check_name(self, name: object) -> str:
        """A name that an enrolled prompt can have here; PromptError for another, such as that of a class prompt."""
        text = check_name(name)
        known = self._prompts.get(text)
        if known is not None and known.kind == "class":
            raise PromptError(f"{text!r} is a class prompt of this model; choose another name")
        return text

    def add(self, prompt: Prompt) -> None:
        """Keeps an enrolled prompt under its name, in place of an older one.

        Raises:
            PromptError: a name as for `check_name`, or a vector of another size or with numbers that are not finite.
        """
        self.check(prompt)
        self._prompts[prompt.name] = prompt

    def remove(self, name: str) -> None:
        """Forgets an enrolled prompt; PromptError for a name that there is not, or that of a class prompt."""
        if self[name].kind == "class":
            raise PromptError(f"{name!r} is a class prompt of this model, which stays")
        del self._prompts[name]

    def check(self, prompt: Prompt) -> None:
        """Raises what `add` would."""
        self.check_name(prompt.name)
        size = self.prompt_size
        if size is None:
            raise PromptError(f"{prompt.name!r} cannot be added: this model takes no prompts")
        check_vector(prompt.name, prompt.vector, size)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._prompts

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._prompts))  # other threads may add some meanwhile

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

    def with_vector(self, name: str, vector: Tensor) -> "Plan":
        """The same with another vector for every source called `name`.

        Raises:
            PromptError: nothing is called so, a vector of another size or with numbers that are not finite, or one that
                another name has: two stems would be the same.
        """
        if self.vectors is None:
            raise PromptError(f"{name!r} cannot be replaced: this model takes no prompts")
        places = [place for place, (own, _) in enumerate(self.keys) if own == name]
        if not places:
            asked = ", ".join(dict.fromkeys(own for own, _ in self.keys))
            raise PromptError(f"{name!r} cannot be replaced: what is separated here is {asked}")
        check_vector(name, vector, self.vectors.shape[1])
        vectors = self.vectors.clone()
        vectors[places] = vector.to(vectors)
        for place, (own, _) in enumerate(self.keys):
            if own != name and torch.equal(vectors[place], vectors[places[0]]):
                raise PromptError(f"{name!r} cannot be replaced by what {own!r} is: the two stems would be the same")
        return replace(self, vectors=vectors, groups=equal_groups([tuple(row) for row in vectors.tolist()]))


def make_plan(prompts: Iterable[str] | str, bank: PromptBank, sources: tuple[str, ...], fixed: bool) -> Plan:
    """Plan for these prompts; PromptError as `check_prompts` and `check_repeats`.

    Args:
        sources: labels of a model without prompts; fixed: whether they always come out in that order.
    """
    names = check_prompts(prompts, tuple(bank), vectors=bank.prompt_size is not None)
    if bank.prompt_size is not None:
        vectors = torch.stack([bank[n].vector for n in names])
        # Two names may have been made of the same clip: to the model they are equal.
        check_repeats(names, bank.equal_prompts, [tuple(vector) for vector in vectors.tolist()])
        return plan_of(names, vectors)
    # Without names of its own, a source may come out in any place of the next window.
    groups = () if fixed else (tuple(range(len(sources))),)
    return Plan(sources, tuple((label, 0) for label in sources), None, groups)


def plan_of(names: tuple[str, ...], vectors: Tensor) -> Plan:
    """Plan for sources that are called so, by vectors [sources, dim], whatever a bank has under these names."""
    keys = tuple((name, names[:i].count(name)) for i, name in enumerate(names))
    return Plan(number_repeats(names), keys, vectors, equal_groups([tuple(vector) for vector in vectors.tolist()]))
