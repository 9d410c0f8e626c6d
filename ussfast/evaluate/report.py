"""What `ussfast evaluate` says: JSON, Markdown and a box plot of one evaluation."""

import dataclasses
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ussfast
from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError
from ussfast.evaluate.conditions import LOUD_DB
from ussfast.evaluate.oracle import ORACLES
from ussfast.evaluate.run import ALL_OF_DEV, BASELINES, Evaluation, Leak, Score
from ussfast.evaluate.tables import table_head, table_row
from ussfast.separation import make_folders

# Names in JSON -> headings; improvements are over the mixture.
METRICS = {
    "si_sdr": "SI-SDR", "si_sdr_improvement": "SI-SDRi", "sdr": "SDR", "snr": "SNR", "snr_improvement": "SNRi",
}  # fmt: skip
BAND = {
    "alone_db": "voice alone", "voice_db": "voice", "background_db": "background", "other_db": "all but the voice",
}  # fmt: skip
QUIET = {"quiet_db": "by itself", "after_loud_db": "behind the loud passage", "loss_db": "loss"}
FILES = ("evaluation.json", "evaluation.md", "evaluation.png")
ALL = "all"
Average = dict[str, float | None]


def prepare(directory: Path) -> None:
    """Makes the folder for the files; OutputError where it cannot be, InputError where matplotlib is missing."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise InputError("the box plot of --output needs matplotlib: pip install 'ussfast[evaluate]'") from None
    make_folders([directory / FILES[0]])


def write(found: Evaluation, directory: Path) -> list[Path]:
    """Writes FILES into a folder that is there, each complete or not at all; returns their paths."""
    paths = [directory / name for name in FILES]
    with atomic_write(paths[0]) as temporary:
        temporary.write_text(json.dumps(as_dict(found), indent=1, allow_nan=False) + "\n")
    with atomic_write(paths[1]) as temporary:
        temporary.write_text(markdown(found))
    with atomic_write(paths[2]) as temporary:
        box_plot(found).savefig(temporary, dpi=120)
    return paths


def as_dict(found: Evaluation) -> dict[str, Any]:
    """Everything, as JSON can hold it: settings, averages in `tasks` and `conditions`, and each source in `scores`,
    `leaks`, `high_band` and `after_loud`."""
    means = {"tasks": averages(found), "conditions": conditions(found)}
    return {"ussfast": ussfast.__version__} | dataclasses.asdict(found) | means


def conditions(found: Evaluation) -> dict[str, dict[str, Any]]:
    """{"high_band": {"mixtures": n, figure: {"mean": dB, "median": dB}}, "after_loud": {"sources": n, ...}}.

    `loss_db` is how much less a source of a quiet mixture improves behind a loud one. A condition that the data does
    not have is left out.
    """
    out: dict[str, dict[str, Any]] = {}
    if found.high_band:
        rows = {name: _average([getattr(row, name) for row in found.high_band]) for name in BAND}
        out["high_band"] = {"mixtures": len(found.high_band)} | rows
    if found.after_loud:
        pairs = [(row.quiet_db, row.after_loud_db) for row in found.after_loud]
        figures = zip(*[(quiet, behind, quiet - behind) for quiet, behind in pairs], strict=True)
        out["after_loud"] = {"sources": len(pairs)} | {n: _average(v) for n, v in zip(QUIET, figures, strict=True)}
    return out


def averages(found: Evaluation) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """{task: {prompt: {estimate: {"sources": n, metric: {"mean": dB, "median": dB}}}}}.

    The prompt "all" is over all sources of the task. For absent prompts, `leak_db` over `mixtures` of them is all
    there is.
    """
    out: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for task in _tasks(found.scores):
        rows = [score for score in found.scores if score.task == task]
        for prompt in [*dict.fromkeys(score.prompt for score in rows), ALL]:
            for estimate in found.estimates:
                own = [s for s in rows if s.estimate == estimate and prompt in (s.prompt, ALL)]
                figures = {metric: _average([getattr(s, metric) for s in own]) for metric in METRICS}
                out.setdefault(task, {}).setdefault(prompt, {})[estimate] = {"sources": len(own)} | figures
    for task in _tasks(found.leaks):
        for prompt in dict.fromkeys(leak.prompt for leak in found.leaks if leak.task == task):
            values = [leak.leak_db for leak in found.leaks if (leak.task, leak.prompt) == (task, prompt)]
            row = {"mixtures": len(values), "leak_db": _average(values)}
            out.setdefault(task, {})[prompt] = {"model": row}
    return out


def mean_improvements(found: Evaluation, estimate: str = "model") -> dict[str, dict[str, float]]:
    """Mean SI-SDR improvement in dB: {task: {prompt: dB, "mean": dB}}; mean is over all sources."""
    out: dict[str, dict[str, float]] = {}
    for task in _tasks(found.scores):
        own = [s for s in found.scores if (s.task, s.estimate) == (task, estimate)]
        for name in dict.fromkeys(s.prompt for s in own):
            out.setdefault(task, {})[name] = float(np.mean([s.si_sdr_improvement for s in own if s.prompt == name]))
        out[task]["mean"] = float(np.mean([s.si_sdr_improvement for s in own]))
    return out


def markdown(found: Evaluation) -> str:
    """The file: what was measured, and the tables."""
    half = "" if found.split == ALL_OF_DEV else f", the half {found.split!r} of its dev split"
    return (
        f"# {found.model}\n\n{found.count} mixtures of {found.seconds:g} s per task at {found.sample_rate} Hz, "
        f"seed {found.seed}, from {found.manifest}{half}; ussfast {ussfast.__version__}.\n\n{table(found)}\n"
    )


def table(found: Evaluation) -> str:
    """Markdown tables: mean SI-SDR improvement per task, then everything per prompt, then leaks of absent prompts."""
    oracles = {name: mean_improvements(found, name) for name in ORACLES if name in found.estimates}
    lines = table_head("task", "SI-SDR improvement (dB)", "per prompt", *oracles)
    for task, values in mean_improvements(found).items():
        each = ", ".join(f"{name} {value:+z.1f}" for name, value in values.items() if name != "mean")
        bounds = [f"{of_task[task]['mean']:+z.2f}" for of_task in oracles.values()]
        lines.append(table_row(task, f"{values['mean']:+z.2f}", each, *bounds))
    details = table_head("task", "prompt", "estimate", "sources", *METRICS.values())
    leaks = table_head("task", "prompt", "mixtures", "leak_db")
    for task, prompts in averages(found).items():
        for prompt, estimates in prompts.items():
            if prompt == ALL and len(prompts) == 2:
                continue  # the only prompt's row again
            for estimate, row in estimates.items():
                if "leak_db" in row:
                    leaks.append(table_row(task, prompt, row["mixtures"], _cell(row["leak_db"])))
                else:
                    details.append(table_row(task, prompt, estimate, row["sources"], *(_cell(row[m]) for m in METRICS)))
    note = "Mean / median in dB; SI-SDRi and SNRi are improvements over the mixture."
    parts = ["\n".join(lines), note, "\n".join(details)]
    if found.leaks:
        said = "Level of the output for a prompt that is absent, relative to the mixture, mean / median in dB."
        parts += [said, "\n".join(leaks)]
    means = conditions(found)
    if "high_band" in means:
        said = (
            "Above 8 kHz in the speech stem, mean / median in dB: full-band voices relative to themselves, alone and "
            "with a background; the background, and all but the voice, relative to the background."
        )
        row = means["high_band"]
        lines = table_head("band", "mixtures", *BAND.values())
        parts += [said, "\n".join([*lines, table_row("above 8 kHz", row["mixtures"], *(_cell(row[n]) for n in BAND))])]
    if "after_loud" in means:
        said = f"SI-SDR improvement of sources {LOUD_DB:g} dB below the passage before them, mean / median in dB."
        row = means["after_loud"]
        lines = table_head("loud, then quiet", "sources", *QUIET.values())
        parts += [said, "\n".join([*lines, table_row("quiet", row["sources"], *(_cell(row[n]) for n in QUIET))])]
    return "\n\n".join(parts)


def box_plot(found: Evaluation) -> Any:
    """A matplotlib Figure: SI-SDR improvement, one box per task and prompt for each estimate; a point is the mean.

    The mixture as an estimate (--baseline mixture) is the line at 0, and gets no boxes.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    places = list(dict.fromkeys((score.task, score.prompt) for score in found.scores))
    estimates = [name for name in found.estimates if name not in BASELINES]
    figure = Figure(figsize=(3 + len(places) * (0.4 + 0.25 * len(estimates)), 5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(estimates)
    for number, estimate in enumerate(estimates):
        values = [
            [s.si_sdr_improvement for s in found.scores if (s.task, s.prompt, s.estimate) == (*place, estimate)]
            for place in places
        ]
        at = [place + (number + 0.5) * width - 0.4 for place in range(len(places))]
        point = {"marker": "D", "markersize": 3, "markerfacecolor": "black", "markeredgecolor": "black"}
        axes.boxplot(
            values, positions=at, widths=0.85 * width, patch_artist=True, manage_ticks=False, showmeans=True,
            boxprops={"facecolor": f"C{number}"}, medianprops={"color": "black"}, meanprops=point,
            flierprops={"markersize": 3},
        )  # fmt: skip
    axes.axhline(0, color="grey", linewidth=0.8, zorder=0)
    names = [f"{task}\n{prompt}" for task, prompt in places]
    axes.set_xticks(range(len(places)), names, rotation=45, ha="right", fontsize=8)
    axes.set_ylabel("SI-SDR improvement over the mixture (dB)")
    axes.set_title(f"{found.model}, {found.count} mixtures per task", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    boxes = [Patch(facecolor=f"C{number}", label=name) for number, name in enumerate(estimates)]
    axes.legend(handles=boxes, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _tasks(rows: Sequence[Score] | Sequence[Leak]) -> list[str]:
    return list(dict.fromkeys(row.task for row in rows))


def _average(values: Sequence[float | None]) -> Average:
    measured = [value for value in values if value is not None]
    if not measured:
        return {"mean": None, "median": None}
    return {"mean": float(np.mean(measured)), "median": float(np.median(measured))}


def _cell(average: Average) -> str:
    return " / ".join(f"{value:z.2f}" for value in average.values() if value is not None) or "-"
