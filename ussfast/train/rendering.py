"""From a plan on the host to audio on the device: cut, change, level and sum, each in one go for a whole batch."""

from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ussfast.data.pool import AudioPool, Item
from ussfast.errors import InputError
from ussfast.plain import Checked, Range, Share
from ussfast.train import augment
from ussfast.train.widening import widen


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """Shares of crops that are changed, and by how much at most.

    speed: share of crops with another pitch, another duration or both, one as often as the other. Stems that are
        taken from one song together are changed together.
    pitch_semitones: the pitch moves by up to that many, up or down.
    stretch: the duration changes by up to that factor, longer or shorter.
    equaliser: share of crops with another colour; equaliser_db: gains between minus and plus that.
    reverb: share of crops put in a room; reverb_seconds: shortest and longest time of decay by 60 dB; reverb_db: least
        and most energy of its echoes over that of the direct sound.
    extend: share of speech crops that are made full-band, of those whose item's native band ends below the pool's: the
        octave below their edge is copied upward; extend_db: least and most dB per octave by which the copies fall;
        extend_lift_db: least and most dB by which they are louder than what they join.
        They count as full-band for the mixture's band_limit. Example clips stay as they are.
    limit_others: share of crops that are not speech that are limited to a band edge of their own, between 4 kHz and
        half the rate.
    """

    speed: Share = 0.0
    pitch_semitones: Annotated[float, Range(0, 12)] = 3.0
    stretch: Annotated[float, Range(1, 2)] = 1.2
    equaliser: Share = 0.0
    equaliser_db: Annotated[float, Range(0, 40)] = 6.0
    reverb: Share = 0.0
    reverb_seconds: tuple[float, ...] = (0.1, 0.7)
    reverb_db: tuple[float, ...] = (-18.0, -3.0)
    extend: Share = 0.0
    extend_db: tuple[float, ...] = (6.0, 18.0)
    extend_lift_db: tuple[float, ...] = (0.0, 0.0)
    limit_others: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        lowest = {"reverb_seconds": 0.01, "reverb_db": -100.0, "extend_db": 0.0, "extend_lift_db": -20.0}
        for name, low in lowest.items():
            ends = getattr(self, name)
            if len(ends) != 2 or not low <= ends[0] <= ends[1] <= 20:
                raise InputError(f"{name} must be the least and the most, {low} to 20, got {list(ends)}")


@dataclass(frozen=True)
class Change:
    """What becomes of one crop. gains_db: at augment.equaliser_bands; room: t60 in seconds and wet_db.

    fall_db: made full-band, by copies that fall by that per octave; lift_db: from so much above what they join.
    edge: of the band, a share of half the rate.
    """

    pitch: float = 1.0
    stretch: float = 1.0
    gains_db: tuple[float, ...] | None = None
    room: tuple[float, float] | None = None
    fall_db: float | None = None
    lift_db: float = 0.0
    edge: float = 1.0

    @property
    def moves(self) -> bool:
        return (self.pitch, self.stretch) != (1.0, 1.0)

    def span(self, count: int, rate: int) -> int:
        """How many samples of an item become `count`."""
        return augment.samples_needed(count, self.stretch, rate) if self.moves else count


@dataclass(frozen=True)
class Crop:
    """`span` samples of an item from `offset` on; gain: factor on its unit RMS; row: which source it is a part of."""

    item: int
    offset: int
    span: int
    gain: float
    row: int
    change: Change


@dataclass
class Plan:
    """What to cut and how loud: built on the host, carried out on the device in one go."""

    crops: list[Crop] = field(default_factory=list)
    row_gain: list[float] = field(default_factory=list)  # one entry per source, row after row
    built: list[bool] = field(default_factory=list)  # one entry per source: summed from parts


def hit(rng: np.random.Generator, share: float) -> bool:
    """True in `share` of the calls; a share of 0 draws nothing, so that what is switched off changes no other draw."""
    return share > 0 and bool(rng.random() < share)


def draw_speed(rng: np.random.Generator, config: AugmentConfig) -> Change:
    """A change of pitch and duration, or none; equal steps are equally likely on a logarithmic scale."""
    if not hit(rng, config.speed):
        return Change()
    kind = rng.integers(3)
    semitones, octaves = rng.uniform(-1, 1, 2) * (config.pitch_semitones, np.log2(config.stretch))
    pitch = float(2 ** (semitones / 12)) if kind != 0 else 1.0
    return Change(pitch, float(2**octaves) if kind != 1 else 1.0)


def draw_colour(rng: np.random.Generator, config: AugmentConfig, change: Change) -> Change:
    """`change` with colour added, or as it is."""
    if not hit(rng, config.equaliser):
        return change
    gains = rng.uniform(-config.equaliser_db, config.equaliser_db, augment.EQUALISER_BANDS)
    return replace(change, gains_db=tuple(map(float, gains)))


def draw_room(rng: np.random.Generator, config: AugmentConfig, change: Change) -> Change:
    """`change` with a room added, or as it is."""
    if not hit(rng, config.reverb):
        return change
    (shortest, longest), (least, most) = config.reverb_seconds, config.reverb_db
    return replace(change, room=(rng.uniform(shortest, longest), rng.uniform(least, most)))


def draw_width(rng: np.random.Generator, config: AugmentConfig, change: Change, item: Item, rate: int) -> Change:
    """`change` with a wider band, for speech whose own ends early, or a narrower one, for other sounds, or as it is."""
    if item.prompt != "speech":
        return replace(change, edge=draw_edge(rng, config.limit_others, rate, 4000))
    if item.native_rate >= rate or not hit(rng, config.extend):
        return change
    least, most = config.extend_db
    fall = rng.uniform(least, most)
    least, most = config.extend_lift_db
    return replace(change, fall_db=fall, lift_db=rng.uniform(least, most) if most > least else least)


def draw_edge(rng: np.random.Generator, share: float, rate: int, lowest: float = 3000) -> float:
    """An upper band edge between `lowest` Hz and half the rate, as a share of half the rate; 1 where there is none."""
    return float(rng.uniform(min(1.0, 2 * lowest / rate), 1.0)) if hit(rng, share) else 1.0


def render_crops(pool: AudioPool, crops: list[Crop], count: int, rng: np.random.Generator) -> Tensor:
    """[crops, count]: cut and changed, not yet levelled. `rng` draws the noise that rooms are made of."""
    device = pool.samples.device

    def cut(chosen: list[Crop], span: int) -> Tensor:
        return pool.crops(np.array([c.item for c in chosen]), np.array([c.offset for c in chosen]), span)

    def among(rows: list[int]) -> Tensor:
        return torch.tensor(rows, device=device)

    moved = [c for c in crops if c.change.moves]
    if not moved:
        x = cut(crops, count)
    else:
        x = pool.samples.new_empty(len(crops), count, dtype=torch.float32)
        if still := [i for i, c in enumerate(crops) if not c.change.moves]:
            x[among(still)] = cut([crops[i] for i in still], count)
        longer = cut(moved, max(c.span for c in moved))
        pitch, stretch = [c.change.pitch for c in moved], [c.change.stretch for c in moved]
        made = augment.change_speed(longer, pitch, stretch, pool.rate, count)
        x[among([i for i, c in enumerate(crops) if c.change.moves])] = made
    falls = {i: c.change.fall_db for i, c in enumerate(crops) if c.change.fall_db is not None}
    if falls:
        rows = among(list(falls))
        ends = [pool.items[crops[i].item].native_rate / 2 * crops[i].change.pitch for i in falls]
        lifts = [crops[i].change.lift_db for i in falls]
        x[rows] = widen(x[rows], ends, list(falls.values()), pool.rate, lifts)
    gains = {i: c.change.gains_db for i, c in enumerate(crops) if c.change.gains_db is not None}
    if gains:
        rows = among(list(gains))
        x[rows] = augment.equalise(x[rows], np.array(list(gains.values())), pool.rate)
    rooms = {i: c.change.room for i, c in enumerate(crops) if c.change.room is not None}
    if rooms:
        rows = among(list(rooms))
        t60, wet_db = np.array(list(rooms.values())).T
        taps = min(count, max(2, round(float(t60.max()) * pool.rate)))
        noise = torch.from_numpy(rng.standard_normal((len(rooms), taps), np.float32)).to(device)
        x[rows] = augment.reverberate(x[rows], t60, wet_db, pool.rate, noise)
    edges = {i: c.change.edge for i, c in enumerate(crops) if c.change.edge < 1}
    if edges:
        rows = among(list(edges))
        x[rows] = augment.band_limit(x[rows], list(edges.values()))
    return x


def render(pool: AudioPool, plan: Plan, edges: list[float], count: int, rng: np.random.Generator) -> Tensor:
    """Sources [mixtures, sources, count] from a plan: cut, change, level, sum, level, limit the band.

    edges: upper band edge of every mixture, a share of the pool's band.
    """
    device = pool.samples.device

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=device)[:, None]

    crops = level(render_crops(pool, plan.crops, count, rng), column([c.gain for c in plan.crops]))
    rows = crops.new_zeros(len(plan.row_gain), count)
    rows.index_add_(0, torch.tensor([c.row for c in plan.crops], device=device), crops)
    rows = level(rows, column(plan.row_gain))
    if min(edges) < 1:
        rows = augment.band_limit(rows, np.repeat(edges, len(rows) // len(edges)))
    return rows.unflatten(0, (len(edges), -1))


def level(x: Tensor, gain: Tensor | float) -> Tensor:
    """Rows at unit RMS times their gain; the floor keeps nearly silent rows nearly silent."""
    return x * (gain / x.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-4))
