"""How a prompt is tuned."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ussfast.errors import InputError
from ussfast.plain import Checked, Range


@dataclass(frozen=True)
class TuneConfig(Checked):
    """loss: "snr" (negative, in dB), or "l1" of waveforms as published.

    steps: of the optimiser (Adam), at most; minutes: instead of that, if given. batch: mixtures per step.
    lr: per step, of a vector whose root mean square is 1; it falls as half a cosine.
    mixtures: that are made at first, as far as `memory` MiB hold what is computed of them once; `renew` of them take
        the place of old ones after each validation.
    held: mixtures that decide which prompt is best, and whether it is better than the one it began with.
    every: steps from one validation to the next; patience: validations without a better one that end it.
    colour: sounds are coloured by up to so many dB, up or down, in each of six bands; semitones: and played faster or
        slower by up to so many: few clips then stand for more. Held mixtures have sounds as they are.
    gain: in dB on held mixtures, from which the tuned prompt takes the place of the one it began with.
    """

    loss: Literal["snr", "l1"] = "snr"
    steps: Annotated[int, Range(1, 1e7)] = 300
    minutes: Annotated[float, Range(0, 1e5)] | None = None
    batch: Annotated[int, Range(1, 1024)] = 4
    lr: Annotated[float, Range(1e-7, 10)] = 0.02
    seconds: Annotated[float, Range(0.1, 60)] = 2.0
    mixtures: Annotated[int, Range(1, 100_000)] = 96
    renew: Annotated[int, Range(0, 100_000)] = 8
    held: Annotated[int, Range(1, 10_000)] = 24
    memory: Annotated[float, Range(1, 1e6)] = 512.0
    every: Annotated[int, Range(1, 1e6)] = 20
    patience: Annotated[int, Range(1, 1e6)] = 15
    colour: Annotated[float, Range(0, 40)] = 6.0
    semitones: Annotated[float, Range(0, 12)] = 2.0
    gain: Annotated[float, Range(0, 100)] = 0.1
    seed: Annotated[int, Range(0, 1 << 62)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch > self.mixtures:
            raise InputError(f"batch must be at most mixtures, {self.mixtures}, got {self.batch}")
