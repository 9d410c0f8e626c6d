"""Recordings whose stems belong together, sample by sample: which there are, and their audio."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ussfast import audio
from ussfast.audio.reading import AUDIO_SUFFIXES
from ussfast.audio.resampling import resample
from ussfast.data.folders import SPLITS, item_of
from ussfast.data.pool import Item, read_manifest
from ussfast.errors import InputError
from ussfast.plain import Word, shown

WHOLE = ("mix", "mixture")  # files of a piece that are no stem
ENOUGH = 5  # pieces of which some can be held out whole
SLACK = 0.05  # seconds by which stems of one piece may differ: what lossy codecs add
SILENT = 1e-5  # largest value of what is silent throughout: -100 dB
QUIET = 1e-6  # power of an excerpt in which nothing is heard
TRIES = 10


@dataclass(frozen=True)
class Piece:
    """files: by source, in alphabetical order; several are summed. items: the same files, for credits."""

    name: str
    split: str
    files: dict[str, tuple[str, ...]]
    items: tuple[Item, ...]


def read_pieces(
    path: str | os.PathLike[str], names: Sequence[str] | None = None, by: Literal["prompt", "label"] = "prompt"
) -> list[Piece]:
    """Pieces of a manifest, or of a folder.

    Args:
        path: a manifest, whose songs are the pieces; or a folder with one subfolder per piece and in it one file per
            source, called after it, all of which may lie in subfolders `train`, `dev` (or `valid`) and `test`; or a
            folder that is one piece. Files called mix or mixture are left out.
        names: of the sources that are wanted; pieces without all of them are left out.
        by: what of a manifest's row is its source's name.
    Raises:
        InputError: no such pieces; two stems or pieces of one name, also where only upper and lower case differ;
            pieces that differ in their sources, unless `names` says which are wanted.
    """
    given = Path(path)
    found = _of_folder(given) if os.path.isdir(given) else _of_items(read_manifest(given), by)
    if not found:
        raise InputError(f"{given}: neither a manifest with songs nor a folder of stems (PIECE/STEM.wav, or STEM.wav)")
    if names is not None:
        wanted = [p for p in found if set(names) <= p.files.keys()]
        if not wanted:
            there = ", ".join(sorted({name for p in found for name in p.files}))
            raise InputError(f"{given}: no piece has all of {', '.join(names)}; there are {there}")
        return [_only(p, sorted(set(names))) for p in wanted]
    first = found[0]
    for piece in found:
        if piece.files.keys() != first.files.keys():
            lacks = ", ".join(sorted(first.files.keys() ^ piece.files.keys()))
            raise InputError(
                f"{given}: {piece.name} and {first.name} differ in their stems ({lacks}): all pieces need the same, "
                "or say which are wanted"
            )
    if len(first.files) < 2:
        raise InputError(f"{given}: {first.name} has one stem only, {next(iter(first.files))}: two are needed")
    return found


def _only(piece: Piece, names: list[str]) -> Piece:
    files = {name: piece.files[name] for name in names}
    kept = {file for own in files.values() for file in own}
    return replace(piece, files=files, items=tuple(item for item in piece.items if item.path in kept))


def _of_items(items: Iterable[Item], by: Literal["prompt", "label"]) -> list[Piece]:
    songs: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        if item.song and getattr(item, by):
            songs.setdefault((item.split, item.song), []).append(item)
    pieces = []
    for (split, song), own in songs.items():
        files: dict[str, tuple[str, ...]] = {}
        for item in own:
            name = str(getattr(item, by))
            files[name] = (*files.get(name, ()), item.path)
        pieces.append(Piece(song, split, dict(sorted(files.items())), tuple(own)))
    return pieces


def _of_folder(folder: Path) -> list[Piece]:
    inside = _folders(folder)
    if inside and {p.name.lower() for p in inside} <= SPLITS.keys():
        placed = [(p, SPLITS[top.name.lower()]) for top in inside for p in _folders(top)]
    elif _stem_files(folder):
        placed = [(folder, "train")]
    else:
        placed = [(p, "train") for p in inside]
    pieces: list[Piece] = []
    taken: dict[str, Path] = {}
    for place, split in placed:
        stems = _stem_files(place)
        if not stems:
            continue
        _alone(taken, place.name, place, "two pieces")
        files: dict[str, tuple[str, ...]] = {}
        seen: dict[str, Path] = {}
        for file in stems:
            _alone(seen, file.stem, file, "two stems")
            if fault := Word(100).fault(file.stem):
                raise InputError(f"{shown(str(file))}: the name of a stem {fault}")
            files[file.stem] = (str(file),)
        items = tuple(
            item_of(file, place.name, split, folder.name, prompt=file.stem, song=place.name, label=file.stem)
            for file in stems
        )
        pieces.append(Piece(place.name, split, dict(sorted(files.items())), items))
    return pieces


def _folders(folder: Path) -> list[Path]:
    try:
        return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: not readable: {error.strerror}") from None


def _stem_files(folder: Path) -> list[Path]:
    found = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file()]
    return [p for p in found if not p.name.startswith(".") and p.stem.lower() not in WHOLE]


def _alone(taken: dict[str, Path], name: str, path: Path, what: str) -> None:
    other = taken.setdefault(name.casefold(), path)
    if other != path:
        raise InputError(f"{path} and {other}: {what} of one name: rename one of them")


class StemPool:
    """Decoded pieces at one rate, all with the same sources.

    names: of the sources, alphabetical: the order of sources everywhere. audio: float32 [sources, samples] of each
    piece, channels averaged.
    """

    def __init__(self, names: Sequence[str], rate: int, pieces: Sequence[Piece], audio: Sequence[Tensor]):
        self.names, self.rate, self.pieces, self.audio = tuple(names), rate, list(pieces), list(audio)

    @classmethod
    def load(
        cls,
        pieces: Sequence[Piece],
        rate: int,
        progress: Callable[[Iterable[Piece]], Iterable[Piece]] = lambda pieces: pieces,
    ) -> "StemPool":
        """Decodes pieces of `read_pieces`.

        Raises, with the name of the file:
            AudioError: not readable, or NaN or infinity in it.
            InputError: other rates or lengths than the other stems of the piece; a source that is silent in all pieces.
        """
        if not pieces:
            raise InputError("there are no pieces with stems to decode")
        found = [_decoded(piece, rate) for piece in progress(pieces)]
        for row, (name, files) in enumerate(pieces[0].files.items()):
            if all(own[row].abs().max() < SILENT for own in found):
                everywhere = f" (and {name} in every other piece)" if len(pieces) > 1 else ""
                raise InputError(f"{files[0]}: silent throughout{everywhere}: there is nothing to learn from it")
        return cls(tuple(pieces[0].files), rate, pieces, found)

    @property
    def seconds(self) -> float:
        """Of all pieces together."""
        return sum(own.shape[1] for own in self.audio) / self.rate

    def held_out(self, share: float = 0.2) -> tuple["StemPool", "StemPool"]:
        """(what to learn from, what to test on): by the pieces' own splits, if they have several; of many pieces some,
        evenly over the list; else the last part of each.

        Raises:
            InputError: a share that is not between 0 and 1.
        """
        if not 0 < share < 1:
            raise InputError(f"the share to hold out must be between 0 and 1, got {share}")
        train = [i for i, piece in enumerate(self.pieces) if piece.split == "train"]
        count = len(self.pieces)
        if not 0 < len(train) < count and count >= ENOUGH:
            dev = {int((k + 0.5) / max(1, round(share * count)) * count) for k in range(max(1, round(share * count)))}
            train = [i for i in range(count) if i not in dev]
        if 0 < len(train) < count:
            return self._part(train), self._part([i for i in range(count) if i not in train])
        cuts = [round((1 - share) * own.shape[1]) for own in self.audio]
        parts = [[own[:, :at] for own, at in zip(self.audio, cuts, strict=True)]]
        parts += [[own[:, at:] for own, at in zip(self.audio, cuts, strict=True)]]
        first, last = (StemPool(self.names, self.rate, self.pieces, part) for part in parts)
        return first, last

    def _part(self, chosen: Sequence[int]) -> "StemPool":
        pieces, audio = [self.pieces[i] for i in chosen], [self.audio[i] for i in chosen]
        return StemPool(self.names, self.rate, pieces, audio)

    def shortened(self, seconds: float) -> "StemPool":
        """The first so many seconds of all pieces, in their order."""
        left, pieces, audio = round(seconds * self.rate), [], []
        for piece, own in zip(self.pieces, self.audio, strict=True):
            if left > 0:
                pieces.append(piece)
                audio.append(own[:, :left])
                left -= audio[-1].shape[1]
        return StemPool(self.names, self.rate, pieces, audio)

    def draw(self, rng: np.random.Generator, count: int, samples: int, coherent: bool = True) -> Tensor:
        """Excerpts at random: float32 [count, sources, samples].

        Each is of one place in one piece, or, if not `coherent`, every source of one from a place and piece of its own.
        Places where a source is silent are avoided as far as a few tries find others; shorter pieces are followed by
        silence.
        """
        rows, every = len(self.names), slice(None)
        if coherent:
            return torch.stack([self._excerpt(rng, samples, every) for _ in range(count)])
        parts = [self._excerpt(rng, samples, slice(row, row + 1)) for _ in range(count) for row in range(rows)]
        return torch.cat(parts).unflatten(0, (count, rows))

    def _excerpt(self, rng: np.random.Generator, samples: int, rows: slice) -> Tensor:
        lengths = np.array([own.shape[1] for own in self.audio], np.float64)
        best, heard = None, -1
        for _ in range(TRIES):
            own = self.audio[int(rng.choice(len(lengths), p=lengths / lengths.sum()))]
            at = int(rng.integers(max(1, own.shape[1] - samples + 1)))
            part = own[rows, at : at + samples]
            loud = int((part.square().mean(1) > QUIET).sum())
            if loud > heard:
                best, heard = part, loud
            if loud == len(part):
                break
        assert best is not None
        return torch.nn.functional.pad(best, (0, samples - best.shape[1]))

    def excerpts(self, samples: int) -> Tensor:
        """All that do not overlap and in which every source is heard: float32 [excerpts, sources, samples]."""
        long = [own for own in self.audio if own.shape[1] >= samples]
        parts = [part for own in long for part in own.unfold(1, samples, samples).unbind(1)]
        parts = [part for part in parts if bool((part.square().mean(1) > QUIET).all())]
        return torch.stack(parts) if parts else torch.zeros(0, len(self.names), samples)


def _decoded(piece: Piece, rate: int) -> Tensor:
    rows: list[np.ndarray] = []
    first: tuple[str, int, int] | None = None
    for files in piece.files.values():
        parts = []
        for file in files:
            data, native = audio.read(file)
            first = first or (file, native, data.shape[1])
            if native != first[1]:
                raise InputError(f"{file} has {native} Hz and {first[0]} has {first[1]} Hz: stems need one rate")
            if abs(data.shape[1] - first[2]) > SLACK * native:
                lengths = f"{data.shape[1] / native:.3f} s and {first[0]} {first[2] / native:.3f} s"
                raise InputError(f"{file} has {lengths}: stems of a piece need one length")
            parts.append(data.mean(0))
        length = min(map(len, parts))
        rows.append(np.sum([part[:length] for part in parts], 0))
    assert first is not None
    length = min(map(len, rows))
    mono = np.stack([row[:length] for row in rows]).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(resample(mono, first[1], rate)))
