"""Names of prompts: which a model knows, and the labels of stems. Nothing here needs torch."""

import difflib
import itertools
import re
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from ussfast.errors import PromptError

RESIDUAL = "residual"  # what no stem took; beside the labels of stems
LONGEST = 100  # characters of a name, which becomes a file's
SHOWN = 60  # characters of a wrong one that are repeated


def as_names(prompts: Iterable[str] | str | None) -> tuple[str, ...]:
    """One name or several as a tuple; PromptError for what holds none. It uses up a generator, so call it once."""
    if prompts is None:
        return ()
    try:
        names = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    except TypeError:
        raise PromptError(f"prompts are names, not {type(prompts).__name__}") from None
    for name in names:
        if not isinstance(name, str):
            raise PromptError(f"prompts are names, not {type(name).__name__} ({_short(name)})")
    return names


def check_name(name: Any) -> str:
    """A name for a new prompt; PromptError for one that no stem, and no file, could be called by."""
    if not isinstance(name, str):
        raise PromptError(f"a prompt's name is text, not {type(name).__name__} ({_short(name)})")
    if not name.strip() or not name.isprintable():
        raise PromptError(f"a prompt's name needs characters that can be printed, and no others, not {_short(name)}")
    if len(name) > LONGEST or len(name.encode()) > 2 * LONGEST:
        raise PromptError(f"a prompt's name of {len(name)} characters is too long for a file: {LONGEST} at most")
    if name == RESIDUAL:
        raise PromptError(f"{RESIDUAL!r} is what no stem took; choose another name")
    return name


def _short(value: object) -> str:
    """Its repr as one line, cut."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


# Words that people try first, by the published name of the prompt that they mean.
MEANT = {
    prompt: frozenset(words.split())
    for prompt, words in {
        "speech": "voice voices talk talking talker speaker speakers dialog dialogue conversation spoken person people",
        "sfx": "effect effects fx foley event events",
        "sfxbg": "noise noises background backgrounds ambience ambiance ambient atmosphere environment environmental",
        "drums": "percussion beat beats",
        "vocals": "voice voices singing singer singers sing sung song acapella",
        "other": "guitar guitars piano keys keyboard synth strings instrument instruments instrumental accompaniment",
        "musicbg": "music background score soundtrack bgm",
    }.items()
}
NONE_YET = (
    "this model knows no prompts by name: make some of clips with Separator.enroll, or add vectors with "
    "Separator.prompts.add"
)


def unknown_prompt(name: str, known: tuple[str, ...], vectors: bool = False) -> str:
    """What to say about a name that the model does not know; vectors: whether it takes them."""
    if not known and vectors:
        return f"unknown prompt {_short(name)}; {NONE_YET}"
    if not known:
        return f"prompt {_short(name)} was given, but this model takes no prompts: it always returns its own sources"
    lower = name.lower()[:LONGEST]
    said = set(re.findall(r"\w+", lower))
    meant = {one: len(said & MEANT.get(one, frozenset())) for one in known}
    near = [one for one in known if meant[one] and meant[one] == max(meant.values())]
    near += [one for one in difflib.get_close_matches(lower, known, n=3, cutoff=0.5) if one not in near]
    if near:
        return f"unknown prompt {_short(name)}; did you mean {' or '.join(near)}? The model knows: {', '.join(known)}"
    clips = "; other sounds are shown by example clips: enroll or tune" if vectors else ""
    return f"unknown prompt {_short(name)}; the model knows: {', '.join(known)}{clips}"


def check_prompts(
    prompts: Iterable[str] | str, known: tuple[str, ...], vectors: bool = False
) -> tuple[str, ...]:
    """The prompts as a tuple; PromptError for an unknown one or for none at all, where the model needs them.

    vectors: whether the model takes prompts, also if it knows none so far.
    """
    names = as_names(prompts)
    for name in names:
        if name not in known:
            raise PromptError(unknown_prompt(name, known, vectors))
    if vectors and not known and not names:
        raise PromptError(f"no prompts given; {NONE_YET}")
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
    """Labels of stems, all different: names, those that repeat numbered from 1 ("sfx", "sfx" -> "sfx-1", "sfx-2"),
    without numbers that make the name of another ("sfx", "sfx", "sfx-1" -> "sfx-2", "sfx-3", "sfx-1")."""
    taken, labels = set(names), []
    for name in names:
        numbered = (f"{name}-{number}" for number in itertools.count(1))
        labels.append(name if list(names).count(name) == 1 else next(label for label in numbered if label not in taken))
        taken.add(labels[-1])
    return tuple(labels)


def equal_groups(prompts: Sequence[Hashable]) -> tuple[tuple[int, ...], ...]:
    """Indices of those that repeat: sources that may be exchanged with one another."""
    return tuple(
        tuple(i for i, other in enumerate(prompts) if other == prompt)
        for prompt in dict.fromkeys(prompts)
        if list(prompts).count(prompt) > 1
    )
