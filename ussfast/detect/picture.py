"""Events as bars over time."""

from collections.abc import Sequence
from pathlib import Path

from ussfast.audio import atomic_write, check_picture
from ussfast.detect.events import Event

MOST_ROWS = 60  # labels in one picture; those with the highest scores


def draw_events(path: str | Path, events: Sequence[Event], seconds: float, title: str = "") -> None:
    """Writes a picture: a row for each label, in order of first onsets, and a bar for each event, darker for a higher
    score. The file appears complete or not at all.

    Args:
        path: of a .png, .pdf or .svg.
        seconds: of the recording.
    Raises:
        InputError as `check_picture`, OutputError.
    """
    path = Path(path)
    check_picture(path)
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure  # takes half a second, and most calls need none

    best: dict[str, float] = {}
    for event in events:
        best[event.label] = max(best.get(event.label, 0.0), event.score)
    kept = sorted(best, key=lambda label: -best[label])[:MOST_ROWS]
    rows = {label: row for row, label in enumerate(label for label in best if label in kept)}
    figure = Figure(figsize=(9, 1.2 + 0.28 * max(2, len(rows))), layout="constrained")
    axis = figure.subplots()
    colours, scale = colormaps["viridis_r"], Normalize(0, 1)
    for label, row in rows.items():
        bars = [event for event in events if event.label == label]
        spans = [(event.onset, event.offset - event.onset) for event in bars]
        axis.broken_barh(spans, (row - 0.4, 0.8), facecolors=[colours(scale(event.score)) for event in bars])
    axis.set_xlim(0, max(seconds, 1e-3))
    axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    # Labels may hold what matplotlib would read as formulas.
    axis.set_yticks(list(rows.values()), [label.replace("$", r"\$") for label in rows], fontsize=9)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.set_title(title.replace("$", r"\$"), loc="left", fontsize=11, fontweight="bold")
    axis.set_xlabel("seconds" if seconds < 300 else "minutes:seconds")
    if seconds >= 300:
        axis.xaxis.set_major_formatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02d}")
    if not rows:
        axis.text(0.5, 0.5, "no events", transform=axis.transAxes, ha="center", va="center")
    figure.colorbar(ScalarMappable(scale, colours), ax=axis, label="score", pad=0.01, aspect=15)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)
