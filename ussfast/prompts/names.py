"""Names of prompts: which a model knows, and the labels of stems. Nothing here needs torch."""

import difflib
from collections.abc import Sequence

from ussfast.errors import PromptError


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
    """Labels of stems: names, those that repeat numbered from 1 ("sfx", "sfx" -> "sfx-1", "sfx-2")."""
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(f"{name}-{seen[name]}" if list(names).count(name) > 1 else name)
    return tuple(labels)


def equal_groups(names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Indices of the names that repeat, by name: sources that may be exchanged with one another."""
    return tuple(
        tuple(i for i, other in enumerate(names) if other == name)
        for name in dict.fromkeys(names)
        if list(names).count(name) > 1
    )
