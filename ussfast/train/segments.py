"""Where the class of each clip is heard, the audio of that place, and a detector's vector of it."""

import numpy as np
import torch
from torch import Tensor

from ussfast.detect.detector import Detector
from ussfast.models.detectors import DetectorModel
from ussfast.train.anchors import anchor_starts
from ussfast.train.clip_sets import ClipSet


class Segments:
    """Segments of the clips of a set, computed when they are asked for, and the same every time.

    An item longer than `longest` is not one clip but has one at each place. One that is shorter than a segment is
    repeated until it fills it. Of a label that the detector does not know, the loudest part is taken.

    Args:
        detector: is moved to `device` and into evaluation mode.
        length: of a segment, longest: of a clip, both in samples at the rate of pool and detector.
    """

    def __init__(self, clips: ClipSet, detector: DetectorModel, length: int, longest: int, device: torch.device):
        self.clips, self.length, self.longest = clips, length, max(longest, length)
        self.detector = Detector.from_model(detector, device=str(device))
        self.grid = max(1, round(self.detector.frame_seconds * self.detector.sample_rate))
        self._curves: dict[int, Tensor] = {}
        self._vectors: dict[tuple[int, int], Tensor] = {}

    def start(self, index: int, place: float) -> int:
        """Where the segment of item `index` begins; `place` (0 to 1) says which clip of a long item is meant."""
        samples = int(self.clips.pool.length[index])
        if samples <= self.length:
            return 0
        clip = min(samples, self.longest)
        first = int(place * ((samples - clip) // self.grid + 1)) * self.grid
        rows = self._curve(index)[first // self.grid : (first + clip) // self.grid + 1]
        span = 2 * max(1, round(self.length / self.grid / 2))
        return first + int(anchor_starts(rows[None], clip, self.length, self.grid, span))

    def first(self, index: int) -> int:
        """`start` in the first clip."""
        return self.start(index, 0.0)

    def audio(self, index: int, start: int) -> Tensor:
        """float32 [length] on the device of the pool."""
        pool = self.clips.pool
        samples = int(pool.length[index])
        count = min(samples, self.length)
        audio = pool.crops(np.array([index]), np.array([start]), count)[0]
        return audio if count == self.length else audio.repeat(-(-self.length // count))[: self.length]

    def vector(self, index: int, start: int) -> Tensor:
        """float32 [dim], of one segment at a time: in a batch its last bits would depend on the others."""
        kept = self._vectors.get((index, start))
        if kept is None:
            with torch.inference_mode():
                found = self.detector.model.embed(self.audio(index, start).to(self.detector.device)[None])
            kept = found[0].float().clone()
            if int(self.clips.pool.length[index]) <= self.longest:  # of others, few come twice
                self._vectors[index, start] = kept
        return kept.clone()

    def _curve(self, index: int) -> Tensor:
        """[rows] scores of the item's label, or its energy."""
        if index not in self._curves:
            pool, label = self.clips.pool, self.clips.labels[index]
            samples = int(pool.length[index])
            audio = pool.crops(np.array([index]), np.array([0]), samples)[0]
            if label in self.detector.labels and self._timed:
                frames = self.detector.frames(audio.cpu(), self.detector.sample_rate)
                curve = torch.from_numpy(frames[:, self.detector.labels.index(label)].copy())
            else:
                rows = torch.nn.functional.pad(audio.cpu(), (0, -samples % self.grid)).view(-1, self.grid)
                curve = rows.square().mean(1)
            self._curves[index] = curve
        return self._curves[index]

    @property
    def _timed(self) -> bool:
        """Whether the detector scores over time; one that tags whole clips leaves the loudest part."""
        return getattr(self.detector.model.config, "pooling", "max") != "clip"
