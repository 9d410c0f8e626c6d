"""Names of prompts: which a model knows, and the labels of stems. Nothing here needs torch."""

import difflib
import itertools
from collections.abc import Sequence

from ussfast.errors import PromptError

RESIDUAL = "residual"  # what no stem took; beside the labels of stems


def unknown_prompt(name: str, known: tuple[str, ...]) -> str:
    """What to say about a name that the model does not know."""
    if not known:
        return f"prompt {name!r} was given, but this model takes no prompts: it always returns its own sources"
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return (
        f"unknown prompt {name!r}{hint} The model knows: {', '.join(known)}"
        if hint
        else (f"unknown prompt {name!r}; the model knows: {', '.join(known)}")
    )


def check_prompts(prompts: Sequence[str] | str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The prompts as a tuple; PromptError for an unknown one or for none at all, where the model needs them."""
    names = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    for name in names:
        if name not in known:
            raise PromptError(unknown_prompt(str(name), known))
    if known and not names:
        raise PromptError(f"no prompts given; name at least one of: {', '.join(known)}")
    return names


def number_repeats(names: Sequence[str]) -> tuple[str, ...]:
    """Labels of stems, all different: names, those that repeat numbered from 1 ("sfx", "sfx" -> "sfx-1", "sfx-2"),
    without numbers that make the name of another ("sfx", "sfx", "sfx-1" -> "sfx-2", "sfx-3", "sfx-1")."""
    taken, labels = set(names), []
    for name in names:
        numbered = (f"{name}-{number}" for number in itertools.count(1))
        labels.append(name if list(names).count(name) == 1 else next(label for label in numbered if label not in taken))
        taken.add(labels[-1])
    return tuple(labels)


def equal_groups(names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Indices of the names that repeat, by name: sources that may be exchanged with one another."""
    return tuple(
        tuple(i for i, other in enumerate(names) if other == name)
        for name in dict.fromkeys(names)
        if list(names).count(name) > 1
    )
