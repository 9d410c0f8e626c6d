"""A manifest's audio as Ogg Vorbis in a folder of a given size, with a manifest of its own."""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from ussfast import audio
from ussfast.audio.atomic import write_failure
from ussfast.audio.ogg import encode
from ussfast.audio.resampling import resample
from ussfast.audio.temporary import sweep, temporary_name
from ussfast.data.manifest import LICENSE_CLASSES, PROMPTS, SPLITS, Row, manifest_text, moved, read_rows, row_text
from ussfast.data.pack_order import Unit, keep_order, units_of
from ussfast.errors import AudioError, InputError, OutputError

# Of quality, from the best that is tried to the worst. Below the last, the upper bands that a separator should learn
# are mostly gone; then it is better to have fewer items.
LOSSES = (0.4, 0.5, 0.6, 0.7, 0.8)
SAMPLED_UNITS, SAMPLED_SECONDS = 40, 5.0  # what the size is estimated from
MARGIN = 1.02  # a wrong guess costs encoding everything twice
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
EMPTY_BYTES = len(manifest_text([])) - 2  # the first row has no separator before it


def parse_size(text: str) -> int:
    """Bytes meant by 40MiB, 40MB, 500KiB, 1.5GiB or a plain number. Raises InputError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not found or found[2].lower() not in UNITS:
        raise InputError(f"a size is a number with KB, MB, GB, KiB, MiB or GiB, or bytes, got {text!r}")
    return int(float(found[1]) * UNITS[found[2].lower()])


@dataclass(frozen=True)
class PackSettings:
    """max_bytes: of all files together, the manifest among them. rate: highest sample rate, in Hz.

    splits, license_classes: what to take; everything if empty.
    """

    max_bytes: int
    rate: int = 32000
    splits: tuple[str, ...] = ()
    license_classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or not 8000 <= self.rate <= 192_000:
            raise InputError(f"need a size above 0 and a rate from 8000 to 192000 Hz, got {self}")
        for given, known in ((self.splits, SPLITS), (self.license_classes, LICENSE_CLASSES)):
            if unknown := [name for name in given if name not in known]:
                raise InputError(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")

    def takes(self, row: Row) -> bool:
        wanted = ((self.splits, row["split"]), (self.license_classes, row["license_class"]))
        return all(not names or value in names for names, value in wanted)


@dataclass
class PackReport:
    """kept: rows of the new manifest; dropped: rows of the old one; problems: (file, reason); loss: of quality."""

    kept: list[Row] = field(default_factory=list)
    dropped: list[Row] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    loss: float = 0.0
    size_bytes: int = 0


def pack(source: Path, output: Path, settings: PackSettings, overwrite: bool = False) -> PackReport:
    """Packs the audio that the manifest `source` lists into the folder `output`, complete or not at all.

    Quality goes down first; if that is not enough, items are dropped evenly (`keep_order`). Equal inputs give equal
    files. Only the first channel is kept, as in training.

    Raises:
        InputError: nothing to pack, a size into which not one item fits, or a folder that must not be replaced.
        OutputError: it could not be written.
    """
    rows = [row for row in read_rows(source) if settings.takes(row)]
    if not rows:
        raise InputError(f"{source}: no items of the splits and licence classes asked for")
    if unknown := sorted({str(row["prompt"]) for row in rows} - set(PROMPTS)):
        raise InputError(f"{source}: unknown prompts {', '.join(unknown)}; known are {', '.join(PROMPTS)}")
    _check_target(output, overwrite, [source.parent / row["path"] for row in rows])
    packer = _Packer(rows, source.parent, settings)
    with _folder_at(output) as folder:
        report = packer.fill(folder)
    return report


class _Packer:
    def __init__(self, rows: list[Row], root: Path, settings: PackSettings):
        self.root, self.settings = root, settings
        # Paths as one spelling, so that aligned_with finds its rows.
        self.rows = [moved(row, root, root) for row in rows]
        self.names = [f"{row['prompt']}/{position:05d}.ogg" for position, row in enumerate(rows)]
        self.new_name = {row["path"]: name for row, name in zip(self.rows, self.names, strict=True)}
        self.order = keep_order(self.rows, units_of(self.rows))
        self.problems: dict[Path, str] = {}
        self.seconds = [self._seconds(row) for row in self.rows]

    def fill(self, folder: Path) -> PackReport:
        rates = self._rates()
        fits = [loss for loss in LOSSES if MARGIN * self._estimate(rates[loss]) <= self.settings.max_bytes]
        for loss in LOSSES[LOSSES.index(fits[0]) if fits else -1 :]:
            kept = self._encode_units(folder, loss, rates[loss], last=loss == LOSSES[-1])
            if kept is not None:
                return self._finish(folder, kept, loss)
            _empty(folder)
        raise AssertionError("the last loss always gives a result")

    def _encode_units(
        self, folder: Path, loss: float, rates: dict[str, float], last: bool
    ) -> list[tuple[Unit, list[Row]]] | None:
        """Encodes what fits, with its new rows; None if something does not and a higher loss is left to try."""
        left = self.settings.max_bytes - EMPTY_BYTES
        kept: list[tuple[Unit, list[Row]]] = []
        for unit in tqdm(self.order, f"packing at loss {loss}", disable=None):
            # What is much too large need not be encoded to know it.
            if last and 0.6 * sum(self._expected(position, rates) for position in unit) > left:
                continue
            encoded = self._encode(unit, loss)
            if encoded is None:
                continue
            needed = sum(len(data) + len(row_text(row).encode()) + 2 for row, data in encoded)
            if needed > left:
                if last:
                    continue
                return None
            for row, data in encoded:
                (folder / row["path"]).parent.mkdir(exist_ok=True)
                (folder / row["path"]).write_bytes(data)
            left -= needed
            kept.append((unit, [row for row, _ in encoded]))
        return kept

    def _finish(self, folder: Path, kept: list[tuple[Unit, list[Row]]], loss: float) -> PackReport:
        while True:
            # In the order of the old manifest; songs may be interleaved there.
            numbered = [pair for unit, rows in kept for pair in zip(unit, rows, strict=True)]
            rows = [row for _, row in sorted(numbered, key=lambda pair: pair[0])]
            (folder / "manifest.json").write_text(manifest_text(rows), encoding="utf-8")
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if size <= self.settings.max_bytes or not kept:
                break
            for row in kept.pop()[1]:
                (folder / row["path"]).unlink()
        if not kept:
            why = next((f": {path}: {reason}" for path, reason in self.problems.items()), "")
            raise InputError(f"not one item can be packed into {self.settings.max_bytes} bytes{why}")
        packed = {position for unit, _ in kept for position in unit}
        dropped = [row | {"seconds": self.seconds[i]} for i, row in enumerate(self.rows) if i not in packed]
        return PackReport(rows, dropped, list(self.problems.items()), loss, size)

    def _encode(self, unit: Unit, loss: float) -> list[tuple[Row, bytes]] | None:
        """New rows and files of a unit; None, and a problem, if one of its files cannot be read."""
        result = []
        for position in unit:
            loaded = self._load(position)
            if loaded is None:
                return None
            samples, rate = loaded
            row = self.rows[position] | {"path": self.names[position]}
            row |= {"seconds": round(len(samples) / rate, 3), "sample_rate": rate}
            if "aligned_with" in row:
                inside = {self.names[other] for other in unit}
                row["aligned_with"] = [
                    name for path in row["aligned_with"] if (name := self.new_name.get(path)) in inside
                ]
            result.append((row, encode(samples, rate, loss)))
        return result

    def _load(self, position: int) -> tuple[np.ndarray, int] | None:
        """First channel [frames], clipped to full scale as training does, at the native rate but at most the limit."""
        row = self.rows[position]
        path = self.root / row["path"]
        try:
            data, native = audio.read(path)
        except AudioError as error:
            self.problems[path] = str(error).removeprefix(f"{path}: ")
            return None
        rate = min(native, int(row["sample_rate"]), self.settings.rate)
        return np.clip(resample(data[0], native, rate), -1, 1), rate

    def _seconds(self, row: Row) -> float:
        if "seconds" in row:
            return float(row["seconds"])
        with contextlib.suppress(soundfile.SoundFileError):
            return float(soundfile.info(str(self.root / row["path"])).duration)
        return 0.0

    def _rates(self) -> dict[float, dict[str, float]]:
        """Bytes per second of each prompt at each loss, from the middles of some items of all prompts and labels."""
        found: dict[float, dict[str, list[float]]] = {loss: {} for loss in LOSSES}
        headers: dict[tuple[int, float], int] = {}
        sample = [position for unit in self.order[:SAMPLED_UNITS] for position in unit]
        for position in tqdm(sample, "measuring", disable=None):
            loaded = self._load(position)
            if loaded is None:
                continue
            samples, rate = loaded
            count = min(len(samples), round(SAMPLED_SECONDS * rate))
            start = (len(samples) - count) // 2
            for loss in LOSSES:
                if (rate, loss) not in headers:
                    headers[rate, loss] = len(encode(samples[:1], rate, loss))
                size = len(encode(samples[start : start + count], rate, loss)) - headers[rate, loss]
                found[loss].setdefault(self.rows[position]["prompt"], []).append(size * rate / count)
        return {loss: {k: float(np.mean(v)) for k, v in prompts.items()} for loss, prompts in found.items()}

    def _expected(self, position: int, rates: dict[str, float]) -> float:
        """Bytes of an item and its row, as far as the sample tells."""
        prompt = self.rows[position]["prompt"]
        rate = rates[prompt] if prompt in rates else float(np.mean(list(rates.values()) or [0.0]))
        return 4000 + rate * self.seconds[position] + len(row_text(self.rows[position]).encode())

    def _estimate(self, rates: dict[str, float]) -> float:
        return EMPTY_BYTES + sum(self._expected(position, rates) for position in range(len(self.rows)))


def _check_target(output: Path, overwrite: bool, sources: list[Path]) -> None:
    if not output.parent.is_dir():
        raise OutputError(f"{output}: cannot be written: {output.parent} is not a folder")
    if not output.exists():
        return
    if not overwrite:
        raise InputError(f"{output}: exists already; replace it with --overwrite")
    if not output.is_dir() or (any(output.iterdir()) and not (output / "manifest.json").is_file()):
        raise InputError(f"{output}: is not a pack (a folder with manifest.json), and is not replaced")
    whole = Path(os.path.realpath(output))
    if any(Path(os.path.realpath(path)).is_relative_to(whole) for path in sources):
        raise InputError(f"{output}: holds audio that is to be packed, and is not replaced")


@contextlib.contextmanager
def _folder_at(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its place, and that of an earlier one, when the body ends."""
    sweep(output.parent)
    fresh, old = temporary_name(output), output.with_name(f".{output.name}-{uuid.uuid4().hex}")
    try:
        fresh.mkdir()
        yield fresh
        if output.exists():
            os.replace(output, old)
        os.replace(fresh, output)
    except OSError as error:
        raise write_failure(output, error) from error
    finally:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path)
