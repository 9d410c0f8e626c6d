"""`ussfast evaluate apt`: prompts of N clips, enrolled and tuned, on mixtures of two classes.

Source: Liu et al., "Audio prompt tuning for universal sound separation", ICASSP 2024 (arXiv 2311.18399).
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from tqdm import tqdm

from ussfast.errors import AudioError, InputError, PromptError
from ussfast.evaluate.apt_cases import AptConfig, DataSet, SoundClass, number_of
from ussfast.evaluate.apt_mixtures import Mixture, mixtures_of
from ussfast.evaluate.apt_store import Outcome, Outcomes, Store
from ussfast.evaluate.metrics import sdr, snr
from ussfast.prompts.averages import average
from ussfast.prompts.bank import Prompt
from ussfast.prompts.origin import Average
from ussfast.separator import Separator
from ussfast.tuning.config import TuneConfig

NAME = "query"  # of the prompt, whatever the class
MOST_BACKGROUNDS = 256  # clips of other classes that one prompt is tuned against: more than it makes mixtures


@dataclass(frozen=True)
class Found:
    """What was measured. detector: that made the vectors, None if the model itself did.

    outcomes: by class, shots and method; all that were asked for.
    """

    model: str
    detector: str | None
    data: DataSet
    config: AptConfig
    shots: tuple[str, ...]
    methods: tuple[str, ...]
    outcomes: Mapping[str, Outcomes]


class Experiment:
    """One model on one data set. What is done is kept in a folder, and not done again.

    Args:
        separator: one that can enroll; its prompt NAME is replaced again and again.
        folder: for results; with none yet, or with those of this experiment.
    Raises:
        InputError: the folder has results of another model, detector or data set, or of other settings; all clips are
            silent. PromptError: a model that makes no prompts of clips. AudioError: a clip that cannot be read.
    """

    def __init__(self, separator: Separator, data: DataSet, config: AptConfig, folder: Path):
        self.separator, self.data, self.config = separator, data, config
        self._vectors: dict[Path, torch.Tensor | None] = {}
        self._detector: str | None = None
        if not any(self._clips(sound, "1") for sound in data.classes):
            raise InputError(f"{data.place}: all training clips are silent or too short")
        settings: dict[str, Any] = {"model": str(separator.mark), "detector": self._detector, "data": data.kind}
        tuning = dataclasses.asdict(TuneConfig(**config.tuning))
        settings |= {"clips": data.fingerprint, **dataclasses.asdict(config), "tuning": tuning}
        self.store = Store(folder, settings)

    def run(
        self, sounds: Sequence[SoundClass], shots: Sequence[str], methods: Sequence[str], quiet: bool = False
    ) -> Found:
        """Does what is not done yet.

        Args:
            sounds: classes of the data set; all others are what they are mixed with, too.
            shots, methods: as `shots_of` and `methods_of` give them.
            quiet: no progress, which is shown on terminals only.
        Raises:
            InputError: a class all of whose clips are silent, and as Separator.tune.
            OutputError: results cannot be kept.
        """
        for sound in sounds:  # before hours of work
            if not self._clips(sound, "1"):
                raise InputError(f"{sound.training[0]}: is silent or too short, and so are all clips of {sound.name!r}")
        done = {sound: self.store.read(sound) for sound in sounds}
        wanted = [(s, n, m) for s in sounds for n in shots for m in methods if m not in done[s].get(n, {})]
        bar = tqdm(total=len(wanted), desc="prompts", unit=" prompts", disable=True if quiet else None)
        mixed: dict[SoundClass, list[Mixture]] = {}
        with bar:
            for sound, number, method in wanted:
                bar.set_postfix_str(f"{sound.name}, {number}, {method}")
                if sound not in mixed:
                    mixed = {sound: self._mixtures(sound)}  # of one class at a time
                one = self._outcome(sound, number, method, mixed[sound], bar)
                done[sound].setdefault(number, {})[method] = one
                self.store.write(sound, done[sound])
                bar.update()
        outcomes = {s.name: {n: {m: done[s][n][m] for m in methods} for n in shots} for s in sounds}
        model = str(self.separator.mark)
        return Found(model, self._detector, self.data, self.config, tuple(shots), tuple(methods), outcomes)

    def _outcome(self, sound: SoundClass, shots: str, method: str, mixtures: Sequence[Mixture], bar: Any) -> Outcome:
        clips = self._clips(sound, shots)
        beside = self._backgrounds(sound, shots) if method in ("tuned", "joint") else None
        begun = time.monotonic()

        def each(step: Any) -> None:
            if getattr(step, "sdr", None) is not None:
                bar.set_postfix_str(f"{sound.name}, {shots}, {method}: step {step.step}, {step.best:.1f} dB")

        separator, kept = self.separator, None
        if method in get_args(Average):
            found = torch.stack([v for path in clips if (v := self._vector(path)) is not None])
            separator.prompts.add(
                Prompt(NAME, average(found, cast(Average, method)).to(separator.engine.device), "enrolled")
            )
        else:
            tuned = {"on_step": each, **self.config.tuning}
            if method == "tuned":
                kept = separator.tune(NAME, clips, beside, **tuned).kind == "tuned"
            else:
                from ussfast.tuning.joint import tune_jointly

                separator = tune_jointly(separator, NAME, clips, beside, **tuned)
        seconds = time.monotonic() - begun
        vector = separator.prompts[NAME].vector.float().cpu().tolist()
        of_segments, whole = [], []
        rate = separator.sample_rate
        for target, other in mixtures:
            out = separator.separate(target + other, rate, prompts=NAME).stems[0, 0]
            of_segments.append(sdr(out, target, rate))
            whole.append(snr(out, target))
        rounded = tuple(float(f"{value:.7g}") for value in vector)
        return Outcome(len(clips), seconds, tuple(of_segments), tuple(whole), rounded, kept)

    def _mixtures(self, sound: SoundClass) -> list[Mixture]:
        c = self.config
        rate = self.separator.sample_rate
        return list(mixtures_of(sound, self.data.classes, c.mixtures, c.seconds, rate, c.seed))

    def _backgrounds(self, sound: SoundClass, shots: str) -> list[Path] | None:
        """Clips that the other classes have for as many shots; None for what comes with the package."""
        if self.config.backgrounds == "bundled":
            return None
        number = number_of(shots)
        clips = [path for c in self.data.classes if c.name != sound.name for path in c.order(self.config.seed)[:number]]
        drawn = np.random.default_rng((self.config.seed, sound.key, number)).permutation(len(clips))
        return self._audible([clips[i] for i in drawn], MOST_BACKGROUNDS)

    def _clips(self, sound: SoundClass, shots: str) -> list[Path]:
        """The N-shot set of a class, as many as there are."""
        return self._audible(sound.order(self.config.seed), number_of(shots))

    def _audible(self, clips: Sequence[Path], most: int) -> list[Path]:
        """The first clips of which the model makes vectors."""
        found: list[Path] = []
        for path in clips:
            if len(found) == most:
                break
            if self._vector(path) is not None:
                found.append(path)
        return found

    def _vector(self, path: Path) -> torch.Tensor | None:
        """Of one clip, as `Separator.enroll` has it, each once; None for one that is silent or too short."""
        if path not in self._vectors:
            try:
                prompt = self.separator.prompt_of(NAME, [path])
            except (AudioError, PromptError):
                raise
            except InputError:
                self._vectors[path] = None
            else:
                assert prompt.origin is not None
                self._detector = None if prompt.origin.detector is None else str(prompt.origin.detector)
                self._vectors[path] = prompt.vector.cpu()
        return self._vectors[path]
