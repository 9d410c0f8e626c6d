"""Training a separator on weakly labelled clips: pairs of classes, the part of each clip where its class is heard,
mixtures of equal energy, and a frozen detector's vector of what is to come out.

Source: Chen et al., "Zero-shot Audio Source Separation through Query-based Learning from Weakly-labeled Data",
AAAI 2022.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from ussfast.data.clips import LabelRule, unknown_label
from ussfast.errors import InputError
from ussfast.models import Network, SpectralModel
from ussfast.models.detectors import DetectorModel
from ussfast.ops import use_reference
from ussfast.train.anchors import QUIETEST, mix_pairs
from ussfast.train.clip_recipes import WeakRecipe
from ussfast.train.clip_sets import QUIET, TRIES, ClipSet, in_turn
from ussfast.train.log import SDR
from ussfast.train.segments import Segments
from ussfast.train.work import Work

NAMES = ("mixture", "clean", "silence")


class Triplets(NamedTuple):
    """mixture and source [rows, samples], vector [rows, dim] of the source."""

    mixture: Tensor
    source: Tensor
    vector: Tensor


class Held(NamedTuple):
    """A mixture that is validated on: what is asked for, the other sound at its level, and the vector that asks."""

    target: Tensor
    other: Tensor
    vector: Tensor
    new: bool  # whether its label is held out of training


class WaveformLoss(nn.Module):
    """Mean absolute error of waveforms as a module, so that several processes can share its gradients.

    Running statistics of batch norms, which follow slowly, are plain means as long as there are few batches: a short
    run would else be validated with those that the norms began with.
    """

    def __init__(self, model: SpectralModel, log: bool, bfloat16: bool = False):
        super().__init__()
        self.model, self.log, self.narrow = model, log, bfloat16
        self._norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        self._slowest = [norm.momentum or 0.0 for norm in self._norms]
        self._seen: int | None = None

    def _settle(self) -> None:
        if self._seen is None:  # asked once: the device may be far behind
            counts = [norm.num_batches_tracked for norm in self._norms if norm.num_batches_tracked is not None]
            self._seen = min(map(int, counts), default=0)
        self._seen += 1
        for norm, slowest in zip(self._norms, self._slowest, strict=True):
            norm.momentum = max(slowest, 1 / self._seen)

    def forward(self, batch: Triplets) -> Tensor:
        if self.model.training:
            self._settle()
        with use_reference():
            found = self.model.separate(batch.mixture, batch.vector[:, None], autocast=self.narrow)[:, 0]
        error = (found - batch.source).abs().mean()
        return error.clamp(min=1e-8).log10() if self.log else error


def sdr(reference: Tensor, error: Tensor) -> float:
    """10 log10 of the ratio of energies, in dB; what is quieter than 1e-8 counts as that."""
    energies = [float(x.double().square().sum().clamp(min=1e-8)) for x in (reference, error)]
    return 10 * float(np.log10(energies[0] / energies[1]))


class Weak(Work):
    """What `Work` asks for, of a separator by vectors.

    Args:
        recipe, rules: rules are those of the labels, held out ones too.
        train, dev: clips at the model's rate; those for training on this process's training device.
        detector: makes the vectors, and says where a class is heard. name, digest: of it.
    Raises:
        InputError: labels without clips, fewer than two that are trained, a label that the detector or, held out, the
            recipe does not know; a detector of another rate, or whose embeddings are no vectors for the model.
    """

    measure = SDR
    recipe: WeakRecipe

    def __init__(
        self, recipe: WeakRecipe, rules: Sequence[LabelRule], train: ClipSet, dev: ClipSet, detector: DetectorModel,
        name: str, digest: str,
    ):  # fmt: skip
        self.recipe, self.train, self.dev, config = recipe, train, dev, recipe.model
        if detector.config.sample_rate != config.sample_rate:
            raise InputError(
                f"detector {name} works at {detector.config.sample_rate} Hz, the recipe's model at "
                f"{config.sample_rate} Hz: they must be the same"
            )
        if detector.embedding_dim != config.latent_dim:
            raise InputError(
                f"embeddings of detector {name} have {detector.embedding_dim} numbers, and the recipe's model takes "
                f"{config.latent_dim}: set its latent_dim to {detector.embedding_dim}"
            )
        self.labels = recipe.trained(rules)
        train.check(self.labels, "training", least=2)
        for label in self.labels:
            if label not in detector.labels:
                raise unknown_label(label, detector.labels, f"detector {name} has")
        self.device = train.pool.samples.device
        length, longest = (
            round(seconds * config.sample_rate) for seconds in (config.segment_seconds, recipe.pairs.clip_seconds)
        )
        self.segments, held_out = (Segments(part, detector, length, longest, self.device) for part in (train, dev))
        self.held = self._held(held_out, [rule.name for rule in rules])
        if not any(not one.new for one in self.held):
            raise InputError(
                f"recipe {recipe.name}: there are no clips of split dev to validate on, of two labels at least"
            )
        found = hashlib.blake2b(digest.encode(), digest_size=16)
        for one in self.held:
            found.update(one.target.numpy().tobytes() + one.other.numpy().tobytes())
        self.dev_set = found.hexdigest()

    def _held(self, segments: Segments, names: Sequence[str]) -> list[Held]:
        """Up to `run.validate_items` segments per label, each with one of another label; the same in every run."""
        rng, most = np.random.default_rng(0), self.recipe.run.validate_items
        labels = [name for name in names if name in self.dev.by_label]
        found = []
        for label in labels:
            others = [name for name in labels if name != label]
            own = self.dev.by_label[label]
            for index in own[:most].tolist() if others else ():
                start, other = segments.first(index), self.dev.by_label[str(rng.choice(others))]
                beside = int(rng.choice(other))
                target = segments.audio(index, start)
                pair = torch.stack([target, segments.audio(beside, segments.first(beside))])
                sources = mix_pairs(pair)[1]
                vector = self._query(segments, label, index)
                found.append(Held(sources[0].cpu(), sources[1].cpu(), vector.cpu(), label in self.recipe.held_out))
        return found

    def _query(self, segments: Segments, label: str, but: int) -> Tensor:
        """What asks for a label: the mean over clips that are trained on; of a held out one, over other dev clips."""
        trained = label in self.labels
        source = self.segments if trained else segments
        clips = source.clips.by_label[label].tolist()
        clips = clips if trained else [index for index in clips if index != but] or clips
        chosen = clips[: self.recipe.pairs.query_clips]
        return torch.stack([source.vector(index, source.first(index)) for index in chosen]).mean(0)

    def objective(self, model: Network) -> nn.Module:
        log, narrow = self.recipe.pairs.loss == "log_mae", self.recipe.run.precision == "bf16"
        return WaveformLoss(cast(SpectralModel, model), log, narrow)

    def size(self, batch: Triplets) -> int:
        return len(batch.mixture)

    def batch(self) -> Triplets:
        config, rng = self.recipe.pairs, self.rng
        audio, vectors = [], []
        for label in in_turn(rng, self.labels, 2 * config.pairs):
            own = self.train.by_label[label]
            for _ in range(TRIES):
                index = int(own[rng.integers(len(own))])
                start = self.segments.start(index, rng.random())
                segment = self.segments.audio(index, start)
                if float(segment.square().mean()) > QUIET:
                    break
            audio.append(segment)
            vectors.append(self.segments.vector(index, start))
        mixture, source = mix_pairs(torch.stack(audio))
        if config.level_db is not None:
            levels = torch.from_numpy(
                10 ** (rng.uniform(config.level_db[0], config.level_db[1], config.pairs) / 20)
            ).float()
            power = source[::2].square().mean(-1).clamp(min=QUIETEST)
            gain = (levels.to(source.device) / power.sqrt()).repeat_interleave(2)[:, None]
            mixture, source = mixture * gain, source * gain
        return Triplets(mixture, source, torch.stack(vectors))

    @torch.inference_mode()
    def scores(self, model: Network, rank: int = 0, count: int = 1) -> list[Any]:
        """(whether the label is new, SDR of what comes out of the mixture, of the target alone, and how far the other
        sound alone is lowered) of each mixture."""
        model, found = cast(SpectralModel, model).eval(), []
        for one in self.held[rank::count]:
            target, other, vector = (x.to(self.device) for x in (one.target, one.other, one.vector))
            inputs = torch.stack([target + other, target, other])
            mixed, alone, rest = model.separate(inputs, vector[None])[:, 0].float()
            found.append((one.new, sdr(target, target - mixed), sdr(target, target - alone), sdr(other, rest)))
        return found

    def means(self, scores: list[Any]) -> dict[str, float]:
        """Medians, of labels that are trained and of those that are held out."""
        found: dict[str, float] = {}
        for new, prefix in ((False, ""), (True, "held out, ")):
            rows = [values for is_new, *values in scores if is_new == new]
            if rows:
                columns = np.array(rows).T
                found |= {prefix + name: float(np.median(own)) for name, own in zip(NAMES, columns, strict=True)}
        return found

    def mean(self, means: Any) -> float:
        """Of what is trained: labels that are held out choose nothing."""
        return float(means["mixture"])
