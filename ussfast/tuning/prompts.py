"""Tuning as a separator's users have it: clips and names in, a prompt out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ussfast.errors import InputError, PromptError
from ussfast.plain import from_dict
from ussfast.prompts.bank import Prompt
from ussfast.prompts.origin import Loudest, Origin, Tuning, decoded
from ussfast.tuning.bundled import backgrounds as bundled
from ussfast.tuning.config import TuneConfig
from ussfast.tuning.frozen import Frozen
from ussfast.tuning.mixtures import Mixtures
from ussfast.tuning.sounds import Sound, read_sounds, split
from ussfast.tuning.tuner import Progress, Tuned, tune

ENROLLED = "enrolled"


@dataclass(frozen=True, eq=False)
class TuneStep:
    """After a step of tuning.

    loss: of its batch. sdr: in dB on held-out mixtures, None between validations; before: of the prompt that it began
    with; best: the highest so far. prompt: the best so far, which the separator has by now.
    """

    step: int
    loss: float
    sdr: float | None
    before: float
    best: float
    prompt: Prompt


def tune_prompt(
    separator: Any,
    name: str,
    clips: Iterable[Any],
    others: Iterable[Any] | None,
    sample_rate: int | None,
    start: str | Prompt,
    on_step: Callable[[TuneStep], None] | None,
    settings: Mapping[str, Any],
) -> Prompt:
    """See `Separator.tune`."""
    config = from_dict(TuneConfig, dict(settings), "settings of tune")
    separator.prompts.check_name(name)
    if separator.prompts.prompt_size is None:
        raise PromptError(f"{name!r} cannot be tuned: model {separator.info.name!r} takes no prompts")
    rate, clips = separator.sample_rate, list(clips) if isinstance(clips, Iterable) else clips
    sounds = read_sounds(clips, sample_rate, rate)
    beside = read_sounds(others, sample_rate, rate, "background") if others is not None else _own(separator, name, rate)
    begun = _start(separator, name, start, sounds, rate)
    learned, held = split(sounds, rate, config.seconds)
    seeds = np.random.SeedSequence(config.seed).spawn(2)
    generators = [np.random.default_rng(seed) for seed in seeds]
    how = (config.seconds, rate, generators[0], config.colour, config.semitones)
    to_learn = Mixtures(learned, beside, *how)
    to_check = Mixtures(held, beside, config.seconds, rate, generators[1])
    best: list[Prompt] = []  # the newest one is last

    def each(now: Progress) -> None:
        if not best or now.sdr == now.best:
            best.append(_stored(separator, name, _so_far(now, begun, config), origin))
        if on_step is not None:
            on_step(TuneStep(now.step, now.loss, now.sdr, now.before, now.best, best[-1]))

    device = separator.engine.device
    origin = begun.origin or _origin(sounds, rate)
    with torch.inference_mode(False), torch.enable_grad():
        found = tune(Frozen(separator.engine.model), begun.vector.to(device), to_learn, to_check, config, each)
    return _stored(separator, name, found, origin)


def _stored(separator: Any, name: str, found: Tuned, origin: Origin) -> Prompt:
    told = replace(origin, tuning=Tuning(found.steps, found.before, found.after))
    prompt = Prompt(name, found.vector.to(separator.engine.device), "tuned" if found.kept else "enrolled", told)
    separator.prompts.add(prompt)
    return prompt


def _so_far(step: Progress, begun: Prompt, config: TuneConfig) -> Tuned:
    kept = step.best >= step.before + config.gain
    return Tuned(step.vector if kept else begun.vector, step.before, step.best, kept, step.step, 0.0)


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
