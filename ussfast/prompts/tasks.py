"""Named prompt sets: what to ask a model for, and which of its answers are wanted. Nothing here needs torch.

Models whose prompts see each other take a recording apart better when they are told of everything in it: so a task asks
for more than it keeps. (To the causal model it makes no difference, and costs little.)
"""

from dataclasses import dataclass

from ussfast.errors import InputError


@dataclass(frozen=True)
class Task:
    """prompts: all that is asked for; keep: the stems that are wanted, some or all of them; help: in a few words."""

    prompts: tuple[str, ...]
    keep: tuple[str, ...]
    help: str


_FILM = ("speech", "musicbg", "sfxbg")
_SONG = ("vocals", "bass", "drums", "other")

TASKS = {
    "denoise": Task(("speech", "sfxbg"), ("speech",), "a voice without the noise around it"),
    "dialogue": Task(_FILM, ("speech",), "the voices of a film or broadcast"),
    "effects": Task(_FILM, ("sfxbg",), "its effects and atmosphere, without voices and music"),
    "cinema": Task(_FILM, _FILM, "dialogue, music and effects of a film"),
    "music": Task(_SONG, _SONG, "the four stems of a song"),
    "vocals": Task(_SONG, ("vocals",), "the singing of a song"),
}


def task(name: str) -> Task:
    """The task of this name; InputError that lists those there are."""
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name]


def described(name: str) -> str:
    """Its prompts, and after an arrow those that are kept where not all are: "speech, sfxbg -> speech"."""
    found = TASKS[name]
    return ", ".join(found.prompts) + (f" -> {', '.join(found.keep)}" if found.keep != found.prompts else "")
