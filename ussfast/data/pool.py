"""Training audio as one int16 tensor on the training device, cropped there: nothing is decoded while training."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ussfast import audio
from ussfast.audio.resampling import resample
from ussfast.data.manifest import read_rows
from ussfast.errors import InputError


@dataclass(frozen=True)
class Item:
    """One manifest entry. group: song, speaker or label; crops of one mixture avoid equal groups.

    label and speaker: as in the manifest; clips that share them can stand for each other.
    source and license: whom to credit for weights trained on it.
    """

    path: str
    prompt: str
    group: str
    split: str
    license_class: str
    native_rate: int
    song: str | None = None
    source: str = "unknown"
    license: str = "unknown"
    seconds: float = 0.0
    label: str | None = None
    speaker: str | None = None


def read_manifest(path: str | Path) -> list[Item]:
    """Items of a manifest.json: a table with `items`, each with path, prompt, split, license_class, sample_rate and,
    where they apply, label, speaker and song. Paths are relative to the manifest."""
    folder = Path(path).parent
    return [
        Item(
            path=str(folder / row["path"]),
            prompt=row["prompt"],
            group=str(row.get("song") or row.get("speaker") or row.get("label") or row["path"]),
            split=row["split"],
            license_class=row["license_class"],
            native_rate=int(row["sample_rate"]),
            song=row.get("song"),
            source=str(row.get("source", "unknown")),
            license=str(row.get("license", "unknown")),
            seconds=float(row.get("seconds", 0.0)),
            label=row.get("label"),
            speaker=row.get("speaker"),
        )
        for row in read_rows(path)
    ]


class AudioPool:
    """Decoded items of one sample rate: `samples` int16 [total] on `device`, and where each item lies in it."""

    def __init__(self, items: list[Item], arrays: Iterable[np.ndarray], rate: int, device: torch.device | str = "cpu"):
        """arrays: one float array [samples] per item, at `rate`; values beyond full scale are clipped."""
        self.items, self.rate = items, rate
        parts = [np.clip(np.rint(a * 32768), -32768, 32767).astype(np.int16) for a in arrays]
        if not parts:
            raise InputError("the manifest has no audio of the split, licences and prompts asked for")
        self.length = np.array([len(p) for p in parts], np.int64)
        self.start = np.concatenate(([0], np.cumsum(self.length)[:-1]))
        self.samples = torch.from_numpy(np.concatenate(parts)).to(device)
        # Energy of blocks, kept on the host: a silent crop is avoided without asking the device.
        self._block = max(1, rate // 20)
        self._energy = [_block_energy(p, self._block) for p in parts]

    def power(self, index: int, offset: int, count: int) -> float:
        """Mean square of a crop, to the accuracy of 50 ms blocks; 1.0 is full scale."""
        energy = self._energy[index]
        first, last = np.clip([offset // self._block, (offset + count) // self._block], 0, len(energy) - 1)
        return float((energy[last] - energy[first]) / count)

    @classmethod
    def load(
        cls,
        items: list[Item],
        rate: int,
        device: torch.device | str = "cpu",
        progress: Callable[[Iterable[Item]], Iterable[Item]] = lambda items: items,
    ) -> "AudioPool":
        def decode(item: Item) -> np.ndarray:
            data, native = audio.read(item.path)
            return resample(data[:1], native, rate)[0]

        return cls(items, (decode(item) for item in progress(items)), rate, device)

    def crops(self, items: np.ndarray, offset: np.ndarray, count: int) -> Tensor:
        """Crops of `count` samples, float32 [crops, count]; offsets may reach over either end, which is silent."""
        device = self.samples.device
        at = torch.as_tensor(offset, device=device)[:, None] + torch.arange(count, device=device)
        length = torch.as_tensor(self.length[items], device=device)[:, None]
        start = torch.as_tensor(self.start[items], device=device)[:, None]
        inside = (at >= 0) & (at < length)
        at = (at.clamp_(min=0).minimum(length - 1) + start).masked_fill_(~inside, 0)
        return (self.samples[at] * inside).float() / 32768


def _block_energy(samples: np.ndarray, block: int) -> np.ndarray:
    """Cumulative energy at block borders, float64 [blocks + 1]."""
    square = (samples.astype(np.float32) / 32768) ** 2
    sums = np.add.reduceat(square, np.arange(0, len(square), block), dtype=np.float64)
    return np.concatenate(([0.0], np.cumsum(sums)))
