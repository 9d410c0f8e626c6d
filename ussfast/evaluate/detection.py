"""`ussfast evaluate detect`: a detector on events that are known, and on clips whose labels are known."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ussfast.audio import AudioReader
from ussfast.data.clips import LabelRule, labels_of
from ussfast.data.pool import Item, read_manifest
from ussfast.detect.detector import Detector
from ussfast.detect.events import Event, Rules
from ussfast.errors import InputError
from ussfast.evaluate.event_scores import EventScores, F, average_precision, check_extra
from ussfast.evaluate.references import read_references
from ussfast.evaluate.scenes import BACKGROUNDS, SECONDS, scenes
from ussfast.values import number

SEED = 0


@dataclass(frozen=True)
class Measure:
    """How events are compared; see EventScores. All in seconds but the share.

    Raises:
        InputError: a value that is no number in its range.
    """

    collar: float = 0.2
    length_share: float = 0.2
    segment: float = 1.0

    def __post_init__(self) -> None:
        for name, least, most, unit in (
            ("collar", 0.001, 60, "s"), ("length_share", 0, 1, ""), ("segment", 0.01, 3600, "s"),
        ):  # fmt: skip
            object.__setattr__(self, name, number(getattr(self, name), name, least, most, unit))


@dataclass(frozen=True)
class LabelScore:
    """Of one label: events that there are, clips that have it; None where nothing was measured."""

    label: str
    events: int
    event_based: F | None
    segment_based: F | None
    clips: int
    average_precision: float | None


@dataclass(frozen=True)
class Detection:
    """What was measured, and on what.

    Attributes:
        data: the manifest or the table of references.
        scenes: mixtures that were made of the manifest, or files of the table; seconds: all of them together.
        seed: of the scenes; None for a table.
        event_micro, event_macro, segment_micro, segment_macro: over all labels together, and the mean of theirs.
        mean_average_precision: over the labels that clips of a manifest have; None for a table.
        clips, classes: of the mean average precision.
        labels: what was measured, in the order of names.
        left_out: labels that the detector does not know, and how many clips or events of them there are.
    """

    model: str
    data: str
    sample_rate: int
    scenes: int
    seconds: float
    seed: int | None
    rules: Rules
    measure: Measure
    event_micro: F
    event_macro: F
    segment_micro: F
    segment_macro: F
    mean_average_precision: float | None
    clips: int
    classes: int
    labels: tuple[LabelScore, ...]
    left_out: dict[str, int]


def evaluate_manifest(
    model: str,
    manifest: Path,
    device: str = "auto",
    count: int = 100,
    rules: Rules | None = None,
    measure: Measure | None = None,
    ready: Callable[[], None] = lambda: None,
    labels: Sequence[LabelRule] = (),
) -> Detection:
    """Measures events in `count` scenes made of a manifest's dev items (see `scenes`), and tags of these items.

    Args:
        model, device: as for Detector.
        labels: what items are called; without any, the label of an item is its `label`, or, where the detector does not
            know that, its prompt (such as speech).
        ready: called when the arguments are known to be good, before anything is decoded.
    Raises:
        InputError: a bad manifest, no dev split in it, or no label there that the detector knows; a detector that tags
            whole clips only; packages are missing.
    """
    check_extra()
    items = [item for item in read_manifest(manifest) if item.split == "dev"]
    if not items:
        raise InputError(f"{manifest}: no items of the split 'dev' to measure on")
    detector = Detector(model, device=device)
    known, left_out = _labelled(items, detector.labels, labels)
    if not known:
        raise InputError(f"{manifest}: {_unknown(detector, left_out)}")
    _check_times(detector)
    ready()
    taken = {item.path for item, _ in known}
    backgrounds = [item for item in items if item.prompt in BACKGROUNDS and item.path not in taken]
    sounds = [(item, label) for item, label in known if item.prompt not in BACKGROUNDS] or known
    made = scenes(sounds, backgrounds, detector.sample_rate, count, SEED)
    each = ((scene.audio, detector.sample_rate, SECONDS, scene.events) for scene in made)
    names = sorted({label for _, label in sounds})
    found = _events(detector, tqdm(each, "scenes", count, leave=False, disable=None), names, rules, measure)
    clips = tqdm(known, "clips", leave=False, disable=None)
    precision = _tags(detector, [(item.path, label) for item, label in clips])
    return _detection(detector, manifest, SEED, found, precision, left_out)


def evaluate_references(
    model: str,
    table: Path,
    folder: Path | None = None,
    device: str = "auto",
    rules: Rules | None = None,
    measure: Measure | None = None,
    ready: Callable[[], None] = lambda: None,
) -> Detection:
    """Measures events in the files of a table of references; see `read_references` for `table` and `folder`.

    Labels of the detector that no event of the table has are not asked for.

    Raises:
        InputError: a bad table, files of it that are missing, or no label in it that the detector knows; else as
            `evaluate_manifest`.
    """
    check_extra()
    references = read_references(table, folder)
    if missing := [path for path in references if not os.path.isfile(path)]:
        more = f" and {len(missing) - 1} more files of {table}" if len(missing) > 1 else f", a file of {table}"
        raise InputError(f"{missing[0]}{more}: no such file; --audio names the folder that they are in")
    detector = Detector(model, device=device)
    labels, left_out = _split(Counter(e.label for events in references.values() for e in events), detector.labels)
    if not labels:
        raise InputError(f"{table}: {_unknown(detector, left_out)}")
    _check_times(detector)
    ready()
    files = tqdm(references.items(), "files", leave=False, disable=None)
    each = ((path, None, _seconds(path), [e for e in events if e.label in labels]) for path, events in files)
    return _detection(detector, table, None, _events(detector, each, sorted(labels), rules, measure), {}, left_out)


def _labelled(
    items: Sequence[Item], labels: Sequence[str], rules: Sequence[LabelRule]
) -> tuple[list[tuple[Item, str]], dict[str, int]]:
    """Items with labels that are known, and how many there are of each that is not."""
    known, unknown = [], Counter[str]()
    for item, said in zip(items, labels_of(items, rules), strict=True):
        own = [str(name) for name in (item.label, item.prompt) if name is not None]
        names = ([said] if said is not None else []) if rules else own
        if (label := next((name for name in names if name in labels), None)) is not None:
            known.append((item, label))
        elif item.prompt not in BACKGROUNDS:
            unknown[(names or own)[0]] += 1
    return known, dict(sorted(unknown.items()))


def _split(found: Counter[str], labels: Sequence[str]) -> tuple[set[str], dict[str, int]]:
    return found.keys() & set(labels), {label: n for label, n in sorted(found.items()) if label not in labels}


def _unknown(detector: Detector, left_out: dict[str, int]) -> str:
    names = [", ".join(map(repr, list(names)[:3])) for names in (left_out, detector.labels)]
    return f"no label in it is one of the detector's: there are {names[0]}, it knows {names[1]} ..."


def _check_times(detector: Detector) -> None:
    """InputError for a model that tags whole clips."""
    detector.detect(np.zeros(detector.sample_rate, np.float32), detector.sample_rate)


def _seconds(path: Path) -> float:
    with AudioReader(path) as reader:
        if reader.info.seconds is not None:
            return reader.info.seconds
        return sum(block.shape[1] for block in reader) / reader.sample_rate


@dataclass(frozen=True)
class _Found:
    scores: EventScores
    rules: Rules
    measure: Measure
    events: Counter[str]
    scenes: int
    seconds: float


def _events(
    detector: Detector,
    recordings: Iterator[tuple[np.ndarray | Path, int | None, float, list[Event]]],
    labels: Sequence[str],
    rules: Rules | None,
    measure: Measure | None,
) -> _Found:
    """recordings: (audio, its rate if it is an array, seconds, its events)."""
    rules, measure = rules or Rules(), measure or Measure()
    scores = EventScores(labels, **dataclasses.asdict(measure))
    events, count, total = Counter[str](), 0, 0.0
    settings = dataclasses.asdict(rules) | {"labels": list(labels)}
    for audio, rate, seconds, wanted in recordings:
        scores.add(wanted, detector.detect(audio, rate, **settings), seconds)
        events.update(event.label for event in wanted)
        count, total = count + 1, total + seconds
    return _Found(scores, rules, measure, events, count, total)


def _tags(detector: Detector, clips: Sequence[tuple[str, str]]) -> dict[str, tuple[int, float | None]]:
    """Of every label of the clips (path, label): how many there are, and the average precision.

    It is None where all clips have one label: any order of them is right then.
    """
    labels = sorted({label for _, label in clips})
    right = np.array([[own == label for label in labels] for _, own in clips])
    tags = np.stack([detector.tag(path) for path, _ in clips])[:, detector.columns(labels)]
    found = average_precision(tags, right) if len(labels) > 1 else [None]
    return {label: (int(right[:, at].sum()), found[at]) for at, label in enumerate(labels)}


def _detection(
    detector: Detector,
    data: Path,
    seed: int | None,
    found: _Found,
    precision: dict[str, tuple[int, float | None]],
    left_out: dict[str, int],
) -> Detection:
    events, segments = found.scores.event_based, found.scores.segment_based
    rows = []
    for label in sorted(events.by_label.keys() | precision.keys()):
        clips, own = precision.get(label, (0, None))
        there = found.events[label]
        of_events, of_segments = (scores.by_label[label] if there else None for scores in (events, segments))
        rows.append(LabelScore(label, there, of_events, of_segments, clips, own))
    measured = [own for _, own in precision.values() if own is not None]
    return Detection(
        detector.info.name, str(data), detector.sample_rate, found.scenes, found.seconds, seed, found.rules,
        found.measure, events.micro, events.macro, segments.micro, segments.macro,
        float(np.mean(measured)) if measured else None, sum(clips for clips, _ in precision.values()), len(measured),
        tuple(rows), left_out,
    )  # fmt: skip
