"""Weakly labelled clips: files of which only is known what is heard somewhere in them, and the label of each."""

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ussfast.audio.reading import AUDIO_SUFFIXES
from ussfast.data.folders import for_validation, item_of
from ussfast.data.pool import Item, read_manifest
from ussfast.errors import InputError
from ussfast.plain import Checked, Name, Word

DEV_SHARE = 0.15  # of each label's files, where a folder does not say which are for validation


@dataclass(frozen=True)
class LabelRule(Checked):
    """Which items of a manifest have the label `name`: those with one of these prompts or labels; without any, those
    whose label is the name itself."""

    name: Annotated[str, Word(100)]
    prompts: tuple[Name, ...] = ()
    labels: tuple[Name, ...] = ()

    def fits(self, item: Item) -> bool:
        labels = self.labels if self.prompts or self.labels else (self.name,)
        return item.prompt in self.prompts or str(item.label) in labels


def read_clips(path: str | os.PathLike[str]) -> list[Item]:
    """Items of a manifest, or of a folder with one subfolder of audio per label.

    Of such a folder, `train` and `dev` may be the only subfolders, with those of labels in them; else some files of
    each label are for validation, chosen by hashes of their names.

    Raises:
        InputError: as `read_manifest`; a folder without such files.
    """
    folder = Path(path)
    if not os.path.isdir(folder):
        return read_manifest(folder)
    inside = {p.name: p for p in sorted(folder.iterdir()) if p.is_dir()}
    split = inside.keys() == {"train", "dev"}
    items = []
    for name, root in inside.items():
        for label in [p for p in sorted(root.iterdir()) if p.is_dir()] if split else [root]:
            files = [p for p in sorted(label.iterdir()) if p.is_file() and p.suffix.lower() in AUDIO_SUFFIXES]
            dev = set() if split else for_validation([Path(p.name) for p in files], DEV_SHARE, 2, 1)
            for p in files:
                part = name if split else "dev" if Path(p.name) in dev else "train"
                items.append(item_of(p, label.name, part, label.name, label=label.name))
    if not items:
        raise InputError(f"{folder}: neither a manifest nor a folder with a subfolder of audio files per label")
    return items


def rules_of(items: Sequence[Item]) -> tuple[LabelRule, ...]:
    """A rule for every label of the training items."""
    return tuple(LabelRule(name) for name in known_labels(item for item in items if item.split == "train"))


def known_labels(items: Iterable[Item]) -> list[str]:
    """All labels that items have by themselves, in order."""
    return sorted({str(item.label) for item in items if item.label is not None})


def labels_of(items: Sequence[Item], rules: Sequence[LabelRule]) -> list[str | None]:
    """The label of each item: of several rules that fit, the first one's; None where none does."""
    return [next((rule.name for rule in rules if rule.fits(item)), None) for item in items]


def check_rules(rules: Sequence[LabelRule]) -> None:
    """InputError for two of one name."""
    names = [rule.name for rule in rules]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InputError(f"labels must differ, {twice[0]!r} is there twice")


def unknown_label(name: str, known: Sequence[str], where: str) -> InputError:
    """What is to be said about a label that is not among those that are `known` in some place."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    some = ", ".join(map(repr, near or list(known)[:5]))
    rest = f"did you mean {some}?" if near else f"there are {some}" if known else "there are none"
    return InputError(f"{where} no label {name!r}; {rest}")
