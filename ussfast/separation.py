"""What a separation returns, and writing it to files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ussfast.audio import OutputFormat, Track, Written, draw, stem_files
from ussfast.audio.naming import make_folders, stem_paths
from ussfast.errors import InputError
from ussfast.prompts.names import RESIDUAL


@dataclass(frozen=True, eq=False)
class Separation(Mapping[str, np.ndarray]):
    """Separated audio at the input's rate and length: a mapping from labels to stems [channels, samples], in order.

    labels: one per stem, all different; repeated prompts are numbered.
    stems: float32 [prompts, channels, samples], never rescaled.
    sample_rate: in Hz.
    mixture: float32 [channels, samples], the input.
    """

    labels: tuple[str, ...]
    stems: np.ndarray
    sample_rate: int
    mixture: np.ndarray

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels):
            raise InputError(f"labels of stems must be different, got {list(self.labels)}")

    def __getitem__(self, label: str) -> np.ndarray:
        """The stem [channels, samples] of a label; KeyError-like InputError naming the labels there are."""
        if label not in self.labels:
            raise InputError(f"no stem {label!r}; there are {', '.join(self.labels)}")
        return self.stems[self.labels.index(label)]

    # Mapping's own asks for a KeyError, and its == for arrays that are one truth.
    def __contains__(self, label: object) -> bool:
        return label in self.labels

    def get(self, label: str, default: Any = None) -> Any:
        return self[label] if label in self else default

    __eq__, __hash__ = object.__eq__, object.__hash__

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        channels, samples = self.mixture.shape
        seconds, s = round(samples / self.sample_rate, 3), "" if channels == 1 else "s"
        form = f"{channels} channel{s}, {seconds:g} s at {self.sample_rate} Hz"
        return f"Separation({', '.join(self.labels)}: {form})"

    @property
    def residual(self) -> np.ndarray:
        """Mixture minus the sum of stems, [channels, samples]."""
        return self.mixture - self.stems.sum(0)

    def save(
        self,
        directory: str | Path,
        template: str = "{label}.wav",
        *,
        name: str = "mixture",
        residual: bool = False,
        format: str | OutputFormat | None = None,
        bit_depth: int | None = None,
    ) -> Written:
        """Writes every stem, float32 WAV unless asked otherwise; returns the paths, a list with `warnings`.

        Args:
            template: file name under `directory`, with {label} (needed), and {name} and {index} if wanted.
            name: what {name} stands for.
            residual: also writes the residual, labelled "residual".
            format: "wav", "flac", "mp3", "ogg" or "opus"; by default what the template's suffix says. An
                `OutputFormat` says more: bit rate or quality, and what becomes of samples beyond full scale.
            bit_depth: 32 (float) for WAV and 24 for FLAC by default, or 16 or 24.
        Raises:
            InputError: settings that the format, or the rate or channels of this audio in it, cannot have.
            OutputError: nothing half-written is left.
        """
        tracks = list(self.stems) + ([self.residual] if residual else [])
        output = OutputFormat.of(format, bit_depth)
        paths = stem_paths(Path(directory), template, output_labels(self.labels, residual), name, output)
        make_folders(paths)
        channels, samples = self.mixture.shape
        peak = max((float(np.abs(track).max(initial=0)) for track in tracks), default=0.0)
        with stem_files(paths, self.sample_rate, channels, output, samples, peak) as files:
            files.write(tracks)
        return files.written()

    def plot(self, path: str | Path, *, residual: bool = False) -> Path:
        """Draws spectrograms of mixture and stems, one below the other on the same scales; returns the path.

        Args:
            path: .png, .pdf or .svg; its folder is made.
            residual: also draws the residual.
        Raises:
            InputError: another kind of file, or matplotlib is missing (the extra `evaluate` has it).
            OutputError: nothing half-written is left.
        """
        seconds = self.mixture.shape[1] / self.sample_rate
        shown = [("mixture", self.mixture), *self.items(), *([(RESIDUAL, self.residual)] if residual else [])]
        make_folders([Path(path)])
        draw(path, [Track(label, self.sample_rate, seconds, (track,)) for label, track in shown])
        return Path(path)


def output_labels(labels: Sequence[str], residual: bool) -> tuple[str, ...]:
    """Of what is written; InputError where a stem is called "residual" and the residual is to be there, too."""
    if residual and RESIDUAL in labels:
        raise InputError(f"a stem is called {RESIDUAL!r} itself: leave the residual out, or the stem")
    return (*labels, RESIDUAL) if residual else tuple(labels)


def choose(labels: Sequence[str], residual: bool, stems: Sequence[str] | None) -> tuple[tuple[int, ...], bool]:
    """Which stems are written, in their order, and whether the residual is.

    Args:
        stems: labels of those that are; "residual" means that, as `residual` does, unless a stem is called so. None:
            all of them.
    Raises:
        InputError: an unknown label, or none at all.
    """
    if stems is None:
        return tuple(range(len(labels))), residual
    unknown = [name for name in stems if name not in (*labels, RESIDUAL)]
    if unknown or not stems:
        what = f"no stem {unknown[0]!r}" if unknown else "no stem is chosen"
        raise InputError(f"{what}; there are {', '.join((*labels, RESIDUAL))}")
    rest = residual or (RESIDUAL in stems and RESIDUAL not in labels)
    return tuple(i for i, label in enumerate(labels) if label in stems), rest
