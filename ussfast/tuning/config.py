"""How a prompt is tuned."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ussfast.errors import InputError
from ussfast.plain import Checked, Range

STEPS = 120  # where neither these nor minutes are given


@dataclass(frozen=True)
class TuneConfig(Checked):
    """loss: "snr" (negative, in dB), or "l1" of waveforms as published.

    steps: of the optimiser (Adam), and minutes, at most; STEPS where neither is given. batch: mixtures
        per step. folds: other vectors that learn beside the prompt's, each without some of the clips, which show how
        good it is, from a quarter of the mixtures; 1: the prompt itself learns without every fourth clip.
    lr: per step, of a vector of 64 numbers whose root mean square is 1 (of more numbers it is less, by the root of
        their ratio); it falls as half a cosine. find_lr: finds one by a short test instead. weights_lr: of a model
        whose weights learn too (joint).
    mixtures: that are made at first, as far as `memory` MiB hold what is computed of them once; `renew` of them take
        the place of old ones after each validation.
    held: mixtures that decide when to stop, and whether the prompt takes the place of the one it began with.
    every: steps from one validation to the next; patience: worse ones in a row that end it.
    colour: sounds are coloured by up to so many dB, up or down, in each of six bands; semitones: and played faster or
        slower by up to so many: few clips then stand for more. Held mixtures have sounds as they are.
    doubt: standard errors of the held SDR: a prompt is worse than another if it is so by more than these.
    """

    loss: Literal["snr", "l1"] = "snr"
    steps: Annotated[int, Range(1, 1e7)] | None = None
    minutes: Annotated[float, Range(0, 1e5)] | None = None
    folds: Annotated[int, Range(1, 100)] = 5
    batch: Annotated[int, Range(1, 1024)] = 4
    lr: Annotated[float, Range(1e-7, 10)] = 0.02
    find_lr: bool = False
    weights_lr: Annotated[float, Range(1e-9, 1)] = 1e-4
    seconds: Annotated[float, Range(0.1, 60)] = 3.0
    mixtures: Annotated[int, Range(1, 100_000)] = 96
    renew: Annotated[int, Range(0, 100_000)] = 8
    held: Annotated[int, Range(1, 10_000)] = 40
    memory: Annotated[float, Range(1, 1e6)] = 512.0
    every: Annotated[int, Range(1, 1e6)] = 10
    patience: Annotated[int, Range(1, 1e6)] = 8
    colour: Annotated[float, Range(0, 40)] = 10.0
    semitones: Annotated[float, Range(0, 12)] = 4.0
    doubt: Annotated[float, Range(0, 100)] = 2.0
    seed: Annotated[int, Range(0, 1 << 62)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch > self.mixtures:
            raise InputError(f"batch must be at most mixtures, {self.mixtures}, got {self.batch}")

    def share(self, steps: int, seconds: float) -> float:
        """How much of what it may take is over, from 0 to 1."""
        steps_most = STEPS if self.steps is None and self.minutes is None else self.steps
        seconds_most = None if self.minutes is None else 60 * self.minutes
        parts = [(steps, steps_most), (seconds, seconds_most)]
        return max(min(1.0, spent / most) if most else 1.0 for spent, most in parts if most is not None)
