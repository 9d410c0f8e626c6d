"""What tuning is asked for: a separator's prompt, clips and backgrounds, read and divided."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ussfast.engine.backends.networks import check_learns
from ussfast.errors import InputError, PromptError, PromptWarning
from ussfast.plain import from_dict
from ussfast.prompts.bank import Prompt
from ussfast.prompts.origin import Loudest, Origin, Tuning, decoded
from ussfast.tuning.bundled import backgrounds as bundled
from ussfast.tuning.config import TuneConfig
from ussfast.tuning.mixtures import Mixtures
from ussfast.tuning.sounds import Sound, clipped, cut, read_sounds
from ussfast.tuning.tuner import ALONE, Learner, Progress, Tuned, Tuner

ENROLLED = "enrolled"


@dataclass(frozen=True, eq=False)
class TuneStep:
    """After a step of tuning.

    loss: of its batches. sdr: in dB on held-out mixtures, None between validations; before: of the prompt that it began
    with; best: of the one to keep so far. prompt: that one, which the separator has by now.
    """

    step: int
    loss: float
    sdr: float | None
    before: float
    best: float
    prompt: Prompt


@dataclass(frozen=True, eq=False)
class Case:
    """begun: the prompt that it begins with. sounds: of the clips; beside: the backgrounds; rate: of both, in Hz;
    device: of vectors."""

    name: str
    config: TuneConfig
    begun: Prompt
    sounds: list[Sound]
    beside: list[Sound]
    rate: int
    device: torch.device
    origin: Origin

    @classmethod
    def of(
        cls, separator: Any, name: str, clips: Iterable[Any], others: Iterable[Any] | None, sample_rate: int | None,
        start: str | Prompt, settings: Mapping[str, Any],
    ) -> "Case":  # fmt: skip
        """See `Separator.tune` for arguments and errors. Warns of clips that are distorted."""
        config = from_dict(TuneConfig, dict(settings), "settings of tune")
        separator.prompts.check_name(name)
        if separator.prompts.prompt_size is None:
            raise PromptError(f"{name!r} cannot be tuned: model {separator.info.name!r} takes no prompts")
        check_learns(separator.engine.model, name)
        rate, clips = separator.sample_rate, list(clips) if isinstance(clips, Iterable) else clips
        sounds = read_sounds(clips, sample_rate, rate)
        if loud := clipped(sounds):
            more = f" and {len(loud) - 1} more" if len(loud) > 1 else ""
            warnings.warn(f"{loud[0]}{more}: clipped; better give recordings that are not distorted", PromptWarning, 4)
        if others is None:
            beside = _own(separator, name, rate)
        else:
            beside = read_sounds(others, sample_rate, rate, "background")
        begun = _start(separator, name, start, sounds, rate)
        origin = begun.origin or _origin(sounds, rate)
        return cls(name, config, begun, sounds, beside, rate, separator.engine.device, origin)

    def tuner(self, learner: Learner) -> Tuner:
        config = self.config
        pieces, held = cut(self.sounds, self.rate, config.seconds, config.folds)
        seeds = np.random.SeedSequence(config.seed).spawn(1 + len(held))
        first, *others = (np.random.default_rng(seed) for seed in seeds)
        learned = Mixtures(pieces, self.beside, config.seconds, self.rate, first, config.colour, config.semitones)
        checks = [
            Mixtures([pieces[i] for i in which] or pieces, self.beside, config.seconds, self.rate, rng)
            for which, rng in zip(held, others, strict=True)
        ]
        share = ALONE if len(self.sounds) == 1 else 1.0
        return Tuner(learner, self.begun.vector.to(self.device), learned, checks, held, config, share)

    def prompt(self, found: Tuned) -> Prompt:
        told = replace(self.origin, tuning=Tuning(found.steps, found.before, found.after))
        return Prompt(self.name, found.vector.to(self.device), "tuned" if found.kept else "enrolled", told)

    def watcher(
        self, keep: Callable[[Prompt], None], on_step: Callable[[TuneStep], None] | None
    ) -> Callable[[Progress], None]:
        """What a tuner calls after every step: hands the first and every better prompt to `keep`."""
        newest: list[Prompt] = []

        def each(now: Progress) -> None:
            if not newest or now.sdr == now.best:
                newest[:] = [self.prompt(Tuned(now.vector, now.before, now.best, now.kept, now.step, 0.0))]
                keep(newest[0])
            if on_step is not None:
                on_step(TuneStep(now.step, now.loss, now.sdr, now.before, now.best, newest[0]))

        return each


def _start(separator: Any, name: str, start: str | Prompt, sounds: list[Sound], rate: int) -> Prompt:
    """The prompt that tuning begins with."""
    if isinstance(start, Prompt):
        size = separator.prompts.prompt_size
        if start.vector.shape != (size,) or not torch.isfinite(start.vector).all():
            raise PromptError(f"start must be a prompt of this model: {size} finite numbers")
        return replace(start, origin=None)
    if start == ENROLLED:
        return separator.prompt_of(name, [sound.audio for sound in sounds], rate)
    if not isinstance(start, str):
        raise InputError(f"start must be {ENROLLED!r}, a prompt's name or a Prompt, got {type(start).__name__}")
    return replace(separator.prompts[start], origin=None)


def _own(separator: Any, name: str, rate: int) -> list[Sound]:
    """What comes with the package, and the clips of other prompts."""
    found = bundled(rate)
    for other, prompt in separator.prompts.items():
        if other != name and prompt.origin is not None:
            pairs = [decoded(clip, f"{other!r}: clip {i}") for i, clip in enumerate(prompt.origin.clips, 1)]
            for audio, own in pairs:
                found += read_sounds([audio], own, rate, f"{other!r}: clip")
    return found


def _origin(sounds: list[Sound], rate: int) -> Origin:
    kept = []
    for sound in sounds:
        loudest = Loudest(rate)
        loudest.push(sound.audio)
        kept.append(loudest.encoded())
    return Origin(len(sounds), sum(len(s.audio) for s in sounds) / rate, "mean", tuple(kept))
