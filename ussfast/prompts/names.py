"""Names of prompts: which a model knows, and the labels of stems. Nothing here needs torch."""

import difflib
from collections.abc import Hashable, Sequence

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


def check_repeats(names: Sequence[str], most: int | None, same: Sequence[Hashable] | None = None) -> None:
    """PromptError for more equal prompts than the model tells apart.

    Args:
        most: see `SpectralModel.equal_prompts`.
        same: what makes them equal, in place of their names.
    """
    for group in equal_groups(names if same is None else same):
        if most is not None and len(group) > most:
            equal = ", ".join(dict.fromkeys(names[i] for i in group))
            once = "once" if most == 1 else f"at most {most} times"
            raise PromptError(
                f"{len(group)} equal prompts ({equal}) would give the same stem more than once: "
                f"this model can be asked {once} for one prompt"
            )


def number_repeats(names: Sequence[str]) -> tuple[str, ...]:
    """Labels of stems: names, those that repeat numbered from 1 ("sfx", "sfx" -> "sfx-1", "sfx-2")."""
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(f"{name}-{seen[name]}" if list(names).count(name) > 1 else name)
    return tuple(labels)


def equal_groups(prompts: Sequence[Hashable]) -> tuple[tuple[int, ...], ...]:
    """Indices of those that repeat: sources that may be exchanged with one another."""
    return tuple(
        tuple(i for i, other in enumerate(prompts) if other == prompt)
        for prompt in dict.fromkeys(prompts)
        if list(prompts).count(prompt) > 1
    )
