"""Recipes of what is trained on weakly labelled clips: a detector, and a separator that asks one."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ussfast.data.clips import LabelRule, check_rules, unknown_label
from ussfast.errors import InputError
from ussfast.models import DETECTORS, architecture_of
from ussfast.models.config import Seconds
from ussfast.plain import Checked, Name, Range, Share, convert, from_dict
from ussfast.train.recipe import Plain, RunRecipe, common, read_recipe

Decibels = Annotated[float, Range(-100, 100)]
Span = Annotated[tuple[Decibels, ...], Range(2, 2)]
Few = Annotated[int, Range(0, 100)]


@dataclass(frozen=True)
class ClipsConfig(Checked):
    """How a batch of clips is drawn, for a detector.

    batch: clips in it, labels in turn. seconds: of each; a shorter item lies somewhere in silence.
    repeat: share of shorter items that are repeated instead, as queries are.
    sums: share of clips that get another one of another label, within `sum_db` of their level; they have both labels.
    mixup: share of clips that are blended with another one of the batch as log-mel spectrograms, and so are targets.
    unlabelled: share of clips that have none of the labels, if there are such items.
    gain_db: least and most change of level.
    time_stripes, time_frames, mel_stripes, mel_bands: of SpecAugment: how many stripes, and the widest one.
    """

    seconds: Seconds = 10.0
    batch: Annotated[int, Range(2, 1e5)] = 32
    repeat: Share = 0.0
    sums: Share = 0.0
    sum_db: Annotated[float, Range(0, 60)] = 6.0
    mixup: Share = 1.0
    unlabelled: Share = 0.0
    gain_db: Span = (0.0, 0.0)
    time_stripes: Few = 2
    time_frames: Annotated[int, Range(0, 10_000)] = 64
    mel_stripes: Few = 2
    mel_bands: Annotated[int, Range(0, 512)] = 8


@dataclass(frozen=True)
class PairsConfig(Checked):
    """How mixtures of two clips are drawn, for a separator.

    pairs: mixtures in a batch; each is there twice, once per source. Segments are as long as the model's
        `segment_seconds`; a shorter item is repeated.
    clip_seconds: of longer items, that much is looked through for the segment, at a random place.
    level_db: least and most RMS of a pair's first source, in dB below full scale; none for that of the recording.
    loss: "mae", or "log_mae", its logarithm to base 10.
    query_clips: of a label, that are averaged to the query which validation asks with.
    """

    pairs: Annotated[int, Range(1, 1e5)] = 8
    clip_seconds: Seconds = 10.0
    level_db: Span | None = None
    loss: Literal["mae", "log_mae"] = "mae"
    query_clips: Annotated[int, Range(1, 1000)] = 8


@dataclass(frozen=True, kw_only=True)
class ClipRecipe(RunRecipe):
    """labels: what the items of the data are called; without any, every label of the training data counts."""

    labels: tuple[LabelRule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe(ClipRecipe):
    """Of a detector; its labels are those of the model."""

    clips: ClipsConfig = ClipsConfig()

    def knowing(self, rules: tuple[LabelRule, ...]) -> "DetectorRecipe":
        """The same for these labels."""
        names = tuple(rule.name for rule in rules)
        return dataclasses.replace(self, labels=rules, model=dataclasses.replace(self.model, labels=names))


@dataclass(frozen=True, kw_only=True)
class WeakRecipe(ClipRecipe):
    """Of a separator by vectors.

    detector: model directory of the detector that makes them. held_out: labels that are never trained on, so that
        validation says what the separator makes of sounds that are new to it.
    """

    detector: str | None = None
    held_out: tuple[str, ...] = ()
    pairs: PairsConfig = PairsConfig()

    def trained(self, rules: Sequence[LabelRule]) -> tuple[str, ...]:
        """The labels of these rules that are not held out; InputError for one held out that is none of them."""
        names = [rule.name for rule in rules]
        for held in self.held_out:
            if held not in names:
                raise unknown_label(held, names, f"held_out: recipe {self.name} has")
        return tuple(name for name in names if name not in self.held_out)


def detector_from_dict(data: Plain) -> DetectorRecipe:
    """A detector's recipe from its plain form; errors as for `recipe_from_dict`."""
    rules = _rules(data)
    # Without labels yet: those of the data come later, and everything else of the model is checked now.
    names = [rule.name for rule in rules] or ["unknown"]
    entries = common(data, DetectorRecipe, "detector", labels=names)
    if architecture_of(entries["model"]) not in DETECTORS:
        raise InputError(f"'ussfast train detector' trains models of {', '.join(DETECTORS)}, not of another kind")
    clips = from_dict(ClipsConfig, data.get("clips", {}), "clips")
    return DetectorRecipe(**entries, labels=rules, clips=clips)


def weak_from_dict(data: Plain) -> WeakRecipe:
    """A separator's recipe from its plain form; errors as for `recipe_from_dict`."""
    rules = _rules(data)
    entries = common(data, WeakRecipe, "weak")
    if architecture_of(entries["model"]) != "asp_unet":
        raise InputError("'ussfast train weak' trains models of the architecture asp_unet, whose prompts are vectors")
    return WeakRecipe(
        **entries,
        labels=rules,
        detector=convert(Name | None, data.get("detector"), "detector"),
        held_out=convert(tuple[Name, ...], data.get("held_out", ()), "held_out"),
        pairs=from_dict(PairsConfig, data.get("pairs", {}), "pairs"),
    )


def load_detector_recipe(source: str | Path) -> DetectorRecipe:
    """From a YAML file, or one that comes with the package, by name."""
    return detector_from_dict(read_recipe(source))


def load_weak_recipe(source: str | Path) -> WeakRecipe:
    """From a YAML file, or one that comes with the package, by name."""
    return weak_from_dict(read_recipe(source))


def _rules(data: Any) -> tuple[LabelRule, ...]:
    """Of entries that are names or tables."""
    given = data.get("labels", ()) if isinstance(data, dict) else ()
    if not isinstance(given, list | tuple):
        raise InputError("labels must be a list of names, or of tables with name, prompts and labels")
    tables = [{"name": entry} if isinstance(entry, str) else entry for entry in given]
    rules = tuple(from_dict(LabelRule, table, f"labels[{i}]") for i, table in enumerate(tables))
    check_rules(rules)
    return rules
