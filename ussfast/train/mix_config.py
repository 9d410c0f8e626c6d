"""How mixtures for training are drawn."""

from dataclasses import dataclass, field
from typing import Annotated

from ussfast.errors import InputError
from ussfast.plain import Checked, Name, Range, Share
from ussfast.train.chains import NEXT
from ussfast.train.rendering import AugmentConfig


@dataclass(frozen=True)
class PromptSet(Checked):
    prompts: tuple[Name, ...]
    share: Share


@dataclass(frozen=True)
class MixConfig(Checked):
    """seconds: crop length. rows: sources per batch (mixtures times prompts), so that every step costs the same.

    sets: prompt sets asked for outright with their shares; the remaining share draws chains of prompts. All mixtures
        of a batch have the same number of sources, each a set or chain of its own.
    quietest_db: least level of speech and stems, and of all others; the highest is 0.
    full_band: share of speech taken from items whose own rate is the pool's or more, where there are any.
    built_background: share of backgrounds summed from their parts instead of taken from their own pool.
    aligned: share of mixtures with music stems that take them from one song at one position.
    band_limit: share of mixtures limited to the lowest native band of their sources.
    any_band: share of mixtures limited to a band edge between 3 kHz and half the rate.
    level_jump: share of mixtures whose level changes within the crop, that of all sources alike: a step or a ramp by up
        to `jump_db` up or down, or silence before a random time.
    augment: changes of single crops.
    dropout: share of batches in which one prompt that is not repeated is not asked for.
    absent: share of batches in which one prompt more is asked for, that nothing in the mixture answers to; not where
        the prompts of the mixture leave none.
    silence: share of items with at least two sources asked for of which one is missing in the mixture.
    again: share of batches in which one source of every mixture is asked for a second time, by an example clip.
    pairs: kinds (labels, speakers, stems) per batch of which two clips each are drawn, for the query encoder to find
        together (`loss.pairs_weight`).
    query: share of sources asked for by an example clip, where there is one; query_seconds: its length.
    moved: share of example clips, and of pairs, whose pitch and duration are changed as those of what they stand for.
    """

    seconds: Annotated[float, Range(0.01, 600)] = 2.5
    rows: Annotated[int, Range(4, 4096)] = 12
    sets: tuple[PromptSet, ...] = field(default=())
    quietest_db: Annotated[tuple[Annotated[float, Range(-200, 0)], ...], Range(2, 2)] = (-10.0, -20.0)
    full_band: Share = 0.0
    built_background: Share = 0.25
    aligned: Share = 0.5
    band_limit: Share = 1.0
    any_band: Share = 0.0
    level_jump: Share = 0.0
    jump_db: Annotated[float, Range(0, 60)] = 30.0
    augment: AugmentConfig = AugmentConfig()
    dropout: Share = 0.0
    absent: Share = 0.0
    silence: Share = 0.0
    query: Share = 0.0
    query_seconds: Annotated[float, Range(0.01, 600)] = 2.5
    moved: Share = 0.0
    again: Share = 0.0
    pairs: Annotated[int, Range(0, 4096)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(s.share for s in self.sets) > 1 + 1e-9:
            raise InputError(f"need shares of sets of at most 1 together, got {self}")
        if self.pairs == 1:
            raise InputError(f"need at least two kinds of pairs to be told apart, or 0, got {self.pairs}")
        most = self.rows - (self.absent > 0) - (self.again > 0)
        if most < 4:
            raise InputError(f"need rows >= 5 where absent prompts are asked for, 1 more with again, got {self}")
        for s in self.sets:
            unknown = [prompt for prompt in s.prompts if prompt not in NEXT]
            if unknown or not 2 <= len(s.prompts) <= most:
                raise InputError(f"a prompt set needs 2 to {most} of {', '.join(NEXT)}, got {s}")
