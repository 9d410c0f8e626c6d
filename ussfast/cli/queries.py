"""Prompts that a command makes of clips, or takes from banks: what is asked for, checked without torch."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ussfast.checkpoints.names import Glance
from ussfast.cli import checks
from ussfast.cli.telling import warn
from ussfast.errors import InputError, PromptError, PromptWarning
from ussfast.prompts.files import read_bank
from ussfast.prompts.names import as_names, check_name, check_prompts, check_repeats, number_repeats

if TYPE_CHECKING:
    from ussfast.separator import Separator

WITH_A_NAME = "give the clip a name of its own with --example NAME=CLIP"


@dataclass
class Queries:
    """Prompts that the model does not have by itself.

    clips: of each sound that is shown. learned: those of --learn among them.
    banks: the prompts that each file of prompts has. detector: of --detector, see `Separator`.
    """

    clips: dict[str, list[Path]] = field(default_factory=dict)
    learned: dict[str, list[Path]] = field(default_factory=dict)
    banks: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    detector: str | None = None

    @classmethod
    def of(
        cls,
        banks: Sequence[Path] | None,
        queries: Sequence[str] | None,
        examples: Sequence[str] | None,
        detector: str | None,
        learned: Sequence[str] | None = None,
    ) -> "Queries":
        """Of the options; errors for clips and banks that cannot be read, and names that are no names.

        learned: of --learn, which may be folders.
        """
        found = cls(detector=detector)
        for path in dict.fromkeys(banks or ()):
            found.banks[path] = tuple(prompt.name for prompt in read_bank(path).prompts)
        for text in dict.fromkeys(queries or ()):
            path = _clip(text)
            name = _name(path.stem, f"--query {text}")
            if name in found.clips:
                raise InputError(f"--query {found.clips[name][0]} and {path} are both called {name!r}: {WITH_A_NAME}")
            found.clips[name] = [path]
        shown = set(found.clips)
        for text in examples or ():
            name, clip = _pair(text, "--example", "CLIP", "bark.wav")
            if name in shown:
                raise InputError(f"--example {text}: --query {found.clips[name][0]} is called {name!r} already")
            found.clips.setdefault(name, []).append(_clip(clip))
        shown |= set(found.clips)
        for text in learned or ():
            name, place = _pair(text, "--learn", "PATH", "clips/")
            if name in shown:
                raise InputError(f"--learn {text}: {found.clips[name][0]} is called {name!r} already")
            found.clips.setdefault(name, []).extend(_clips(place))
            found.learned[name] = found.clips[name]
        if detector is not None:
            checks.detector(detector)
        return found

    @property
    def files(self) -> list[Path]:
        """All that is read here: no output may take the place of it."""
        return [*self.banks, *(clip for clips in self.clips.values() for clip in clips)]

    def asked(self, prompts: Iterable[str]) -> tuple[str, ...]:
        """All that is asked for: these prompts, and each sound that is shown."""
        named = as_names(prompts)
        return (*named, *(name for name in self.clips if name not in named))

    def labels(self, of: Glance | None, prompts: Sequence[str]) -> tuple[str, ...] | None:
        """Labels of the stems for all that is asked for, None where only the model knows.

        Raises:
            PromptError: names that neither the model nor a bank has, or several of them; none at all, where the model
                needs them; clips for a model that makes no prompts of them.
        """
        added = [*(name for names in self.banks.values() for name in names), *self.clips]
        # Of names in two banks, only what is asked for matters.
        wanted = dict.fromkeys((*prompts, *self.clips))
        for name in dict.fromkeys(added):
            if name in wanted and added.count(name) > 1:
                raise PromptError(f"{name!r} is {' and '.join(self._places(name))}: {self._advice(name)}")
        if of is None:
            return None
        for name in (name for name in wanted if name in of.prompts and name in added):
            place = " and ".join(self._places(name))
            raise PromptError(f"{name!r} is a prompt of model {of.name!r} itself, and {place}: {self._advice(name)}")
        vectors = not of.prompts and not of.labels  # a model with neither names nor sources of its own takes vectors
        takes = bool(of.prompts) or vectors
        if self.clips or self.detector is not None:
            checks.makes_prompts(of, self.detector)
        known = (*of.prompts, *dict.fromkeys(added)) if takes else ()
        if not prompts and (vectors or of.causal):
            raise PromptError(_none(known))
        if vectors and not known:
            raise PromptError(f"unknown prompt {prompts[0]!r}: this model knows none by name; {SHOW}")
        names = check_prompts(prompts, known, vectors=takes)
        check_repeats(names, of.equal_prompts)
        return number_repeats(names) if takes else of.labels

    def _places(self, name: str) -> Iterator[str]:
        for path, names in self.banks.items():
            if name in names:
                yield f"in {path}"
        if name in self.clips:
            yield f"what {self.clips[name][0]} is called"

    def _advice(self, name: str) -> str:
        return WITH_A_NAME if name in self.clips else "change it with ussfast prompts rename"

    def give(self, separator: "Separator", prompts: Sequence[str], quiet: bool = False) -> None:
        """Makes the prompts that are asked for known to a separator; a line on standard error for what is doubtful."""
        for path, names in self.banks.items():
            if some := [name for name in names if name in prompts]:
                separator.load_prompts(path, some)
        with told(quiet):
            for name, clips in self.clips.items():
                separator.enroll(name, clips)


SHOW = "show it the sound with --query CLIP, or name one of a --bank FILE"


def _none(known: Sequence[str]) -> str:
    if known:
        return f"no prompts given; name at least one of: {', '.join(known)}; or show the sound with --query CLIP"
    return f"no prompts given, and this model knows none by name: {SHOW}"


@contextmanager
def told(quiet: bool = False) -> Iterator[None]:
    """Inside, warnings about prompts are lines on standard error, or nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", PromptWarning)
        show = warnings.showwarning

        def tell(message: Warning | str, *rest: Any, **more: Any) -> None:
            if not isinstance(message, PromptWarning):
                show(message, *rest, **more)
            elif not quiet:
                warn(str(message))

        warnings.showwarning = tell
        yield


def _name(text: str, where: str) -> str:
    try:
        return check_name(text)
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from None


def _pair(text: str, option: str, value: str, such: str) -> tuple[str, str]:
    """Both sides of NAME=..."""
    name, equals, given = text.partition("=")
    if not equals or not given:
        raise InputError(f"{option} {text}: NAME={value} is needed, such as dog={such}")
    return _name(name, f"{option} {text}"), given


def _clips(text: str) -> list[Path]:
    """A file, or those in a folder."""
    from ussfast.audio import find_inputs

    return [_clip(str(path)) for path, _ in find_inputs([checks.file_argument(text)])]


def _clip(text: str) -> Path:
    """A file that can be opened; what is in it shows later."""
    from ussfast.audio import probe

    if text == "-":
        raise InputError("-: a clip is a file: standard input is for what is to be separated")
    path = checks.file_argument(text)
    probe(path)
    return path
