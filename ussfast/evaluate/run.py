"""`ussfast evaluate`: a model on the development mixtures of a manifest, with bounds to compare it with."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ussfast.data.manifest import STEMS
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.errors import InputError
from ussfast.evaluate import conditions
from ussfast.evaluate.conditions import AfterLoud, HighBand
from ussfast.evaluate.dev import HALVES, TASKS, DevMixture, dev_mixtures, half_of
from ussfast.evaluate.metrics import audible, best_order, level_db, sdr, si_sdr, snr
from ussfast.evaluate.oracle import ORACLES, oracle_estimates
from ussfast.evaluate.query import Queries
from ussfast.separator import Separator

SECONDS, SEED = 5.0, 0
ALL_OF_DEV = "all"
BASELINES = ("mixture",)
BY_QUERY = ("speech_speech", "sfx_sfx")
ABSENT_TASK, ABSENT_PROMPT = "absent", "drums"


@dataclass(frozen=True)
class Score:
    """One source of one mixture; all figures in dB, sdr None where no segment can be measured.

    task: of TASKS, or one of BY_QUERY with " by query" behind it. mixture: its number within the task, from 0.
    estimate: "model", "oracle_irm", "oracle_psm" or "mixture", whichever is measured.
    """

    task: str
    mixture: int
    prompt: str
    estimate: str
    si_sdr: float
    si_sdr_improvement: float
    sdr: float | None
    snr: float
    snr_improvement: float


@dataclass(frozen=True)
class Leak:
    """Level of what a model returns for a prompt that is not there, relative to the mixture in dB."""

    task: str
    mixture: int
    prompt: str
    leak_db: float


@dataclass
class Evaluation:
    """What was measured, and on what; estimates: the columns, the model first; split: as for evaluate_model."""

    model: str
    manifest: str
    count: int
    sample_rate: int
    estimates: tuple[str, ...]
    seconds: float = SECONDS
    seed: int = SEED
    scores: list[Score] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    split: str = ALL_OF_DEV
    high_band: list[HighBand] = field(default_factory=list)
    after_loud: list[AfterLoud] = field(default_factory=list)


def evaluate_model(
    model: str,
    manifest: Path,
    device: str = "auto",
    count: int = 40,
    oracle: bool = False,
    baseline: str | None = None,
    ready: Callable[[], None] = lambda: None,
    split: str = ALL_OF_DEV,
) -> Evaluation:
    """Measures a model on `count` development mixtures per task.

    Args:
        model, device: as for Separator.
        manifest: with a dev split (see docs/training.md).
        oracle: also measures ideal masks in the model's STFT.
        baseline: "mixture" also measures the mixture itself as the estimate of every source.
        ready: called when the arguments are known to be good, before anything is decoded or separated.
        split: "all" of the manifest's dev split, or a half of it: "dev", which decides, or "test", for the end.
    Raises:
        InputError: an unknown baseline or split, a bad manifest, or no dev split in it; PromptError: a
            model that lacks prompts of the tasks.
    """
    if baseline is not None and baseline not in BASELINES:
        raise InputError(f"unknown baseline {baseline!r}; there is: {', '.join(BASELINES)}")
    if split not in (ALL_OF_DEV, *HALVES):
        raise InputError(f"unknown split {split!r}; there are: {', '.join((ALL_OF_DEV, *HALVES))}")
    items = read_manifest(manifest)
    dev = [item for item in items if item.split == "dev" and split in (ALL_OF_DEV, half_of(item))]
    if not dev:
        raise InputError(f"{manifest}: no items of the split 'dev' to make mixtures of")
    separator = Separator(model, device=device)
    separator.labels(("speech", "sfx", "sfxbg", *STEMS, "musicbg"))  # unknown ones are told before the work
    ready()
    queries = Queries(separator, dev, [i for i in items if i.split == "train"]) if separator.can_enroll else None
    pool = AudioPool.load(dev, separator.sample_rate)
    mixtures = dev_mixtures(pool, count, SECONDS, SEED)
    progress = tqdm(mixtures, "mixtures", count * len(TASKS), leave=False, disable=None)
    columns = ("model", *(ORACLES if oracle else ()), *((baseline,) if baseline else ()))
    found = Evaluation(separator.info.name, str(manifest), count, separator.sample_rate, columns, split=split)
    measure(separator, progress, found, queries)
    if not found.scores:
        raise InputError(f"{manifest}: the dev split is silent: no source is louder than -60 dBFS")
    measure_conditions(separator, pool, found)
    return found


def measure(
    separator: Separator, mixtures: Iterable[DevMixture], found: Evaluation, queries: Queries | None = None
) -> None:
    """Fills `found` from mixtures that come task by task; by query too where queries are given."""
    rate, numbers = found.sample_rate, dict.fromkeys(TASKS, 0)
    for item in mixtures:
        number, numbers[item.task] = numbers[item.task], numbers[item.task] + 1
        stems = _separated(separator, item, item.prompts)
        known = _bounds(separator, item, found.estimates)
        every = range(len(item.prompts))
        order = best_order(stems, item.references, item.prompts)
        found.scores += _scores(rate, item, item.task, number, every, {"model": stems[order]} | known)
        if queries is not None and item.task in BY_QUERY:
            asked = [(j, name) for j in every if (name := queries.prompt(item.items[j])) is not None]
            if asked:
                places = [j for j, _ in asked]
                stems = _separated(separator, item, [name for _, name in asked])
                by_query = {"model": stems} | {name: known[name][places] for name in known}
                found.scores += _scores(rate, item, f"{item.task} by query", number, places, by_query)
        if item.task == "speech_enhancement":
            stem = _separated(separator, item, (*item.prompts, ABSENT_PROMPT))[-1]
            found.leaks.append(Leak(ABSENT_TASK, number, ABSENT_PROMPT, level_db(stem, item.mixture)))


def measure_conditions(separator: Separator, pool: AudioPool, found: Evaluation) -> None:
    """Fills `high_band` and `after_loud`, from `count` mixtures each."""
    settings = pool, found.count, found.seconds, found.seed
    wide = tqdm(conditions.high_band_mixtures(*settings), "high band", found.count, leave=False, disable=None)
    found.high_band += conditions.high_band(separator, wide)
    pairs = tqdm(conditions.loud_mixtures(*settings), "after loud", found.count, leave=False, disable=None)
    found.after_loud += conditions.after_loud(separator, pairs)


def _separated(separator: Separator, item: DevMixture, prompts: Sequence[str]) -> np.ndarray:
    """Estimates float32 [prompts, samples]."""
    return separator.separate(item.mixture, separator.sample_rate, prompts=prompts).stems[:, 0]


def _bounds(separator: Separator, item: DevMixture, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The estimates [sources, samples] of all columns but the model's."""
    known: dict[str, np.ndarray] = {}
    if set(ORACLES) <= set(columns):
        known |= oracle_estimates(item.mixture, item.references, separator.engine.model.config.stft)
    if "mixture" in columns:
        known["mixture"] = np.broadcast_to(item.mixture, item.references.shape)
    return known


def _scores(
    rate: int, item: DevMixture, task: str, number: int, places: Sequence[int], estimates: dict[str, np.ndarray]
) -> Iterator[Score]:
    """Scores of the sources at `places`, to which the rows of the estimates belong in this order."""
    for row, j in enumerate(places):
        reference = item.references[j]
        if not audible(reference):
            continue
        before = si_sdr(item.mixture, reference), snr(item.mixture, reference)
        for name, estimate in estimates.items():
            after = si_sdr(estimate[row], reference), snr(estimate[row], reference)
            yield Score(
                task, number, item.prompts[j], name,
                si_sdr=after[0], si_sdr_improvement=after[0] - before[0],
                sdr=sdr(estimate[row], reference, rate),
                snr=after[1], snr_improvement=after[1] - before[1],
            )  # fmt: skip
