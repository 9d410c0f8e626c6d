"""Pictures of the transfer study: scores with stars, what augmentation does, scores over the steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ussfast.evaluate.transfer import Found
from ussfast.evaluate.transfer_report import Line, groups

COLOURS = ("#888888", "#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#d62728", "#17becf", "#e377c2", "#bcbd22")


def scores(rows: Sequence[Line]) -> Any:
    """A matplotlib Figure: SI-SDR by condition and model, a panel for each data set; stars over bars."""
    return _bars(rows, lambda row: row.si_sdr, "SI-SDR (dB)", stars=True)


def augmentation(rows: Sequence[Line]) -> Any:
    """A Figure: what each condition changes against none, by model; None where there is none beside it."""
    augmented = [row for row in rows if row.augmented is not None]
    return _bars(augmented, lambda row: row.augmented, "SI-SDR over no augmentation (dB)") if augmented else None


def _bars(rows: Sequence[Line], value: Any, axis: str, stars: bool = False) -> Any:
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(row.downstream for row in rows))
    conditions = list(dict.fromkeys(row.augment for row in rows))
    titles = list(dict.fromkeys(row.title for row in rows))
    width = 0.8 / len(titles)
    size = 2.5 + len(conditions) * (0.4 + 0.35 * len(titles)), 0.8 + 2.4 * len(sets)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(sets), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, sets, strict=True):
        there = {(row.title, row.augment): row for row in rows if row.downstream == name}
        for number, title in enumerate(titles):
            own = [(at, there[title, c]) for at, c in enumerate(conditions) if (title, c) in there]
            at = np.array([at for at, _ in own]) + (number + 0.5) * width - 0.4
            heights = [value(row) for _, row in own]
            axes.bar(at, heights, width, label=title, color=colour(titles, title))
            for x, height, (_, row) in zip(at, heights, own, strict=True):
                if stars and row.star:
                    axes.text(x, max(height, 0.0), "*", ha="center", va="bottom", fontsize=11)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.margins(y=0.12)
        axes.set_title(name, fontsize=9)
        axes.set_ylabel(axis, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xticks(range(len(conditions)), conditions, fontsize=8)
    panels[0].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def curves(found: Found) -> Any:
    """A Figure: the score of validations over the steps on the data set, a panel for each set and condition; lines of
    several seeds are thin. None where nothing was validated."""
    of = {group: runs for group, runs in groups(found).items() if any(run.points for run in runs)}
    if not of:
        return None
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(group[2] for group in of))
    conditions = list(dict.fromkeys(group[3] for group in of))
    # In the order of the bars, so that a colour means the same in both pictures.
    titles = sorted(dict.fromkeys(_title(*group[:2]) for group in of), key=lambda title: title != "scratch")
    figure = Figure(figsize=(2.0 + 3.0 * len(conditions), 0.8 + 2.4 * len(sets)), layout="constrained")
    panels = figure.subplots(len(sets), len(conditions), sharex=True, sharey="row", squeeze=False)
    for (kind, pretrain, downstream, augment), runs in of.items():
        axes = panels[sets.index(downstream), conditions.index(augment)]
        title = _title(kind, pretrain)
        for number, run in enumerate(runs):
            steps, values = zip(*run.points, strict=True) if run.points else ((), ())
            label = title if number == 0 else None
            axes.plot(steps, values, label=label, color=colour(titles, title), linewidth=1.4 if len(runs) == 1 else 0.8)
    for (row, column), axes in np.ndenumerate(panels):
        axes.set_title(f"{sets[row]}, {conditions[column]}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("SI-SDR improvement (dB)", fontsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("steps", fontsize=8)
    panels[0, -1].legend(*_handles(panels), frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _handles(panels: Any) -> tuple[list[Any], list[str]]:
    """Of the legend: a line for every title, whichever panel has it."""
    found: dict[str, Any] = {}
    for axes in panels.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _title(kind: str, pretrain: str | None) -> str:
    return kind if pretrain is None else f"{pretrain}, {kind}"


def colour(titles: Sequence[str], title: str) -> str:
    return COLOURS[titles.index(title) % len(COLOURS)]
