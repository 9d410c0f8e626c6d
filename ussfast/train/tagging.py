"""Training a detector on weakly labelled clips: balanced batches, mixup, SpecAugment; validated by average precision.

Source: Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition", TASLP 2020;
sums of two clips as examples of two labels are ours.
"""

import hashlib
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.errors import InputError
from ussfast.models import Network
from ussfast.models.detectors import DetectorModel
from ussfast.train.clip_recipes import ClipsConfig, DetectorRecipe
from ussfast.train.clip_sets import ClipSet, in_turn
from ussfast.train.log import PRECISION
from ussfast.train.precision import average_precision
from ussfast.train.work import Work

TOGETHER = 8  # clips that are validated at once


class ClipBatch(NamedTuple):
    """audio [clips, samples]; targets [clips, labels], 0 or 1; own [clips], the share of each clip in its blend with
    the clip as far from the end of the batch as it is from the start."""

    audio: Tensor
    targets: Tensor
    own: Tensor


class TagLoss(nn.Module):
    """Binary cross-entropy of the clips' tags as a module, so that several processes can share its gradients.

    bfloat16: runs the network in it, by autocast; the front end and the loss stay float32.
    """

    def __init__(self, model: DetectorModel, config: ClipsConfig, bfloat16: bool = False):
        super().__init__()
        self.model, self.config, self.narrow = model, config, bfloat16

    def forward(self, batch: ClipBatch) -> Tensor:
        model: Any = self.model
        with torch.no_grad():
            log_mel = self._striped(_blended(model.front(batch.audio), batch.own))
        with torch.autocast(log_mel.device.type, torch.bfloat16, enabled=self.narrow):
            tags = model.analyse(log_mel).tags
        return F.binary_cross_entropy(tags.float(), _blended(batch.targets, batch.own))

    def _striped(self, x: Tensor) -> Tensor:
        """SpecAugment: stripes in time and frequency have the mean of their band, what the first norm makes zero."""
        config = self.config
        for axis, stripes, widest in (
            (1, config.time_stripes, config.time_frames),
            (2, config.mel_stripes, config.mel_bands),
        ):
            size = x.shape[axis]
            for _ in range(stripes if widest else 0):
                width = (torch.rand(len(x), 1) * (min(widest, size) + 1)).floor()
                first = (torch.rand(len(x), 1) * (size - width + 1)).floor()
                at = torch.arange(size)
                hidden = ((at >= first) & (at < first + width)).to(x.device)
                hidden = hidden[:, :, None] if axis == 1 else hidden[:, None]
                x = torch.where(hidden, x.mean((0, 1)), x)
        return x


def _blended(x: Tensor, own: Tensor) -> Tensor:
    """Every row with its counterpart from the other end, in which it has the share `own`."""
    share = own.view(-1, *[1] * (x.dim() - 1))
    return x * share + x.flip(0) * (1 - share)


class Tagging(Work):
    """What `Work` asks for, of a detector.

    Args:
        recipe: whose model knows the labels that are trained.
        train, dev: clips at the model's rate; those for training on this process's training device.
    Raises:
        InputError: a label without clips to train on, fewer than two labels, no clip to validate on.
    """

    measure = PRECISION
    recipe: DetectorRecipe

    def __init__(self, recipe: DetectorRecipe, train: ClipSet, dev: ClipSet):
        self.recipe, self.train, self.dev = recipe, train, dev
        self.labels: tuple[str, ...] = recipe.model.labels
        train.check(self.labels, "training", least=2)
        if not any(label in dev.by_label for label in self.labels):
            raise InputError(
                f"recipe {recipe.name}: there are no clips of split dev with any of its labels to validate on"
            )
        self.device = train.pool.samples.device
        self.samples = round(recipe.clips.seconds * train.pool.rate)
        # Clips of no label count, too: a detector should not find anything there.
        self.held = [(i, dev.loudest(i, self.samples)) for own in dev.by_label.values() for i in own.tolist()]
        self.dev_set = self._fingerprint()

    def _fingerprint(self) -> str:
        found = hashlib.blake2b(repr((self.samples, self.labels)).encode(), digest_size=16)
        for index, offset in self.held:
            found.update(repr((self.dev.labels[index], offset)).encode())
            found.update(self._held_clips([(index, offset)]).numpy().tobytes())
        return found.hexdigest()

    def _held_clips(self, held: list[tuple[int, int]]) -> Tensor:
        items, offsets = (np.array(column) for column in zip(*held, strict=True))
        return self.dev.pool.crops(items, offsets, self.samples).cpu()

    def objective(self, model: Network) -> nn.Module:
        return TagLoss(cast(DetectorModel, model), self.recipe.clips, self.recipe.run.precision == "bf16")

    def size(self, batch: ClipBatch) -> int:
        return len(batch.audio)

    def batch(self) -> ClipBatch:
        config, rng = self.recipe.clips, self.rng
        targets = np.zeros((config.batch, len(self.labels)), np.float32)
        first: list[tuple[int, int]] = []
        second: dict[int, tuple[int, int]] = {}
        labels: list[str | None] = list(in_turn(rng, self.labels, config.batch))
        for row in range(config.batch):
            if None in self.train.by_label and rng.random() < config.unlabelled:
                labels[row] = None
            first.append(self.train.pick(rng, labels[row], self.samples))
            self._mark(targets[row], labels[row])
            if rng.random() < config.sums:
                other = str(rng.choice([name for name in self.labels if name != labels[row]]))
                second[row] = self.train.pick(rng, other, self.samples)
                self._mark(targets[row], other)
        gains = 10 ** (rng.uniform(config.gain_db[0], config.gain_db[1], config.batch) / 20)
        audio = self._crops(first) * self._tensor(gains)[:, None]
        if second:
            levels = 10 ** (rng.uniform(-config.sum_db, config.sum_db, len(second)) / 20)
            rows = torch.tensor(list(second), device=audio.device)
            others = self._crops(list(second.values()))
            power, own = (x.square().mean(1) for x in (audio[rows], others))
            gain = (power / own.clamp(min=1e-12)).sqrt().clamp(0.02, 50) * self._tensor(levels)
            audio = audio.index_add(0, rows, others * gain[:, None])
        # Beta(1, 1) is even.
        shares = np.where(rng.random(config.batch) < config.mixup, rng.random(config.batch), 1.0)
        return ClipBatch(audio, self._tensor(targets), self._tensor(shares))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.device)

    def _mark(self, row: np.ndarray, label: str | None) -> None:
        if label is not None:
            row[self.labels.index(label)] = 1

    def _crops(self, places: list[tuple[int, int]]) -> Tensor:
        """[places, samples] of items and offsets."""
        pool = self.train.pool
        items, offsets = (np.array(column, np.int64) for column in zip(*places, strict=True))
        audio = pool.crops(items, offsets, self.samples)
        for row in np.flatnonzero(self.rng.random(len(items)) < self.recipe.clips.repeat):
            length = int(pool.length[items[row]])
            if length < self.samples:
                clip = pool.crops(items[row : row + 1], np.zeros(1, np.int64), length)[0]
                many = clip.repeat(-(-2 * self.samples // length))
                start = -int(offsets[row]) % length
                audio[row] = many[start : start + self.samples]
        return audio

    @torch.inference_mode()
    def scores(self, model: Network, rank: int = 0, count: int = 1) -> list[Any]:
        """(scores of all labels, the label that is heard or None) of each clip."""
        detector, found = cast(DetectorModel, model).eval(), []
        own = self.held[rank::count]
        for at in range(0, len(own), TOGETHER):
            part = own[at : at + TOGETHER]
            tags = detector.tag(self._held_clips(part).to(self.device)).float().cpu().numpy()
            found += [(row, self.dev.labels[index]) for row, (index, _) in zip(tags, part, strict=True)]
        return found

    def means(self, scores: list[Any]) -> dict[str, float]:
        """The average precision of every label that there are clips of."""
        table = np.stack([row for row, _ in scores])
        heard = np.array([self.labels.index(label) if label in self.labels else -1 for _, label in scores])
        return {
            label: average_precision(table[:, column], heard == column)
            for column, label in enumerate(self.labels)
            if (heard == column).any()
        }
