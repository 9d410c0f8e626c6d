"""Pictures of `ussfast evaluate apt`: how well each class is separated, and where its prompt went."""

from typing import Any

import numpy as np

from ussfast.evaluate.apt import Found
from ussfast.evaluate.apt_cases import METHODS


def classes(found: Found) -> Any:
    """A matplotlib Figure: bars of the median SDR per class and method, a panel for each number of shots."""
    from matplotlib.figure import Figure

    names, methods = list(found.outcomes), found.methods
    size = 2.5 + len(names) * (0.25 + 0.13 * len(methods)), 1.2 + 2.2 * len(found.shots)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(found.shots), 1, sharex=True, squeeze=False)[:, 0]
    width = 0.8 / len(methods)
    for axes, shots in zip(panels, found.shots, strict=True):
        for number, method in enumerate(methods):
            medians = [found.outcomes[name][shots][method].median("sdr") for name in names]
            at = np.arange(len(names)) + (number + 0.5) * width - 0.4
            heights = [np.nan if median is None else median for median in medians]
            axes.bar(at, heights, width, label=method, color=_colour(method))
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_ylabel(f"shots: {shots}\nmedian SDR (dB)", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xticks(range(len(names)), [_plain(name) for name in names], rotation=45, ha="right", fontsize=8)
    panels[0].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(_plain(found.model), fontsize=10)
    return figure


def moves(found: Found) -> tuple[np.ndarray, tuple[float, float]] | None:
    """Where prompts began and ended, for the largest number of shots: [classes, 2 (mean, tuned), 2], and how much of
    the variance each of the two directions has. None where nothing is there to be seen."""
    shots = found.shots[-1]
    if not {"mean", "tuned"} <= set(found.methods):
        return None
    pairs = [[found.outcomes[name][shots][method].vector for method in ("mean", "tuned")] for name in found.outcomes]
    points = np.array(pairs, np.float64)
    flat = points.reshape(-1, points.shape[-1])
    flat = flat - flat.mean(0)
    _, sizes, directions = np.linalg.svd(flat, full_matrices=False)
    whole = float(np.square(sizes).sum())
    if len(sizes) < 2 or whole <= 0:
        return None
    shares = np.square(sizes[:2]) / whole
    return (flat @ directions[:2].T).reshape(len(points), 2, 2), (float(shares[0]), float(shares[1]))


def prompts(found: Found) -> Any:
    """A matplotlib Figure: an arrow from the mean vector to the tuned one for each class, in the two directions in
    which these vectors differ most; None where there are none."""
    from matplotlib.figure import Figure

    seen = moves(found)
    if seen is None:
        return None
    points, shares = seen
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    for (begun, ended), name in zip(points, found.outcomes, strict=True):
        axes.annotate("", ended, begun, arrowprops={"arrowstyle": "->", "color": "grey"})
        axes.annotate(_plain(name), ended, (3, 3), textcoords="offset points", fontsize=7)
    axes.scatter(points[:, 0, 0], points[:, 0, 1], s=14, label="mean", color=_colour("mean"))
    axes.scatter(points[:, 1, 0], points[:, 1, 1], s=14, label="tuned", color=_colour("tuned"))
    axes.set_xlabel(f"first direction ({100 * shares[0]:.0f}% of the variance)")
    axes.set_ylabel(f"second direction ({100 * shares[1]:.0f}%)")
    axes.set_title(f"{_plain(found.model)}, shots: {found.shots[-1]}", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _colour(method: str) -> str:
    return f"C{METHODS.index(method)}"


def _plain(text: str) -> str:
    """Names may hold what matplotlib would read as formulas."""
    return text.replace("$", r"\$")
