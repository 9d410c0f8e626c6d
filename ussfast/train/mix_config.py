"""How mixtures for training are drawn."""

from dataclasses import dataclass, field

from ussfast.errors import InputError
from ussfast.train.chains import NEXT
from ussfast.train.rendering import AugmentConfig


@dataclass(frozen=True)
class PromptSet:
    prompts: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class MixConfig:
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
    """

    seconds: float = 2.5
    rows: int = 12
    sets: tuple[PromptSet, ...] = field(default=())
    quietest_db: tuple[float, ...] = (-10.0, -20.0)
    full_band: float = 0.0
    built_background: float = 0.25
    aligned: float = 0.5
    band_limit: float = 1.0
    any_band: float = 0.0
    level_jump: float = 0.0
    jump_db: float = 30.0
    augment: AugmentConfig = AugmentConfig()
    dropout: float = 0.0
    absent: float = 0.0
    silence: float = 0.0
    query: float = 0.0
    query_seconds: float = 2.5
    again: float = 0.0
    pairs: int = 0

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.rows < 4 or sum(s.share for s in self.sets) > 1 + 1e-9:
            raise InputError(f"need seconds > 0, rows >= 4 and shares of sets of at most 1 together, got {self}")
        shares = (self.any_band, self.absent, self.silence, self.query, self.again)
        if not all(0 <= share <= 1 for share in shares) or self.query_seconds <= 0:
            raise InputError(
                f"need any_band, absent, silence, query and again between 0 and 1 and query_seconds > 0, got {self}"
            )
        if len(self.quietest_db) != 2 or max(self.quietest_db) > 0 or not 0 <= self.full_band <= 1:
            raise InputError(f"need two quietest_db of at most 0 and full_band between 0 and 1, got {self}")
        if not 0 <= self.level_jump <= 1 or not 0 <= self.jump_db <= 60:
            raise InputError(f"need level_jump between 0 and 1 and jump_db 0..60, got {self}")
        if self.pairs == 1 or self.pairs < 0:
            raise InputError(f"need at least two kinds of pairs to be told apart, or 0, got {self.pairs}")
        most = self.rows - (self.absent > 0) - (self.again > 0)
        if most < 4:
            raise InputError(f"need rows >= 5 where absent prompts are asked for, 1 more with again, got {self}")
        for s in self.sets:
            unknown = [prompt for prompt in s.prompts if prompt not in NEXT]
            if unknown or s.share < 0 or not 2 <= len(s.prompts) <= most:
                raise InputError(f"a prompt set needs 2 to {most} of {', '.join(NEXT)}, and a share from 0 on, got {s}")
