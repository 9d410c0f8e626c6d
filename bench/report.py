"""A table and a chart of model benches.

    python bench/report.py bench/results/models.json --out bench/results

Reads what pytest-benchmark wrote with --benchmark-json; by default all of those in bench/results. Writes models.md
and models.png (which needs matplotlib: pip install 'ussfast[bench]').
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "machine", "threads", "model", "backend", "audio (s)", "RTF", "GFLOP/s", "share of GEMM", "against reference",
    "difference", "peak (MiB)", "ready (s)",
)  # fmt: skip


def read(files: list[Path]) -> list[dict[str, Any]]:
    """The extra_info of every model bench, in the order of the files; typer.BadParameter if there is none."""
    found = []
    for file in files:
        try:
            benches = json.loads(file.read_text())["benchmarks"]
            found += [bench["extra_info"] for bench in benches if "backend" in bench["extra_info"]]
        except OSError as error:
            raise typer.BadParameter(f"{file}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise typer.BadParameter(f"{file}: not written by pytest --benchmark-json") from None
    if not found:
        raise typer.BadParameter(f"no model benches in {', '.join(map(str, files)) or RESULTS}: make bench-models")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, one line per model and backend."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        against = row["subject_speedup"].get("reference", 1.0)
        lines.append(
            f"| {row['machine']} | {row['threads']} | {row['model']} | {row['backend']} "
            f"| {row['seconds']:g} | {row['rtf']:.3f} "
            f"| {row['gflops']:.1f} | {row['gemm_share']:.1%} | {against:.2f}x | {row['difference']:.1e} "
            f"| {row['peak_mib']:.0f} | {row['ready_seconds']:.2f} |"
        )
    settings = {f"torch {row['torch']}" for row in rows}
    return "\n".join([*lines, "", f"{'; '.join(sorted(settings))}. " + "The audio is one window. " + LEGEND, ""])


LEGEND = (
    "RTF is run time by duration. GEMM is the rate of float32 matrix products that took turns with the runs, "
    "so lower precisions may exceed it. Difference is the largest from the reference, by its peak. Peak is memory "
    "above the loaded model, ready the time from the loaded model to the first result, both in a fresh process."
)


def chart(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of the real-time factor by model, colours are backends; one panel per machine and number of threads.

    Times of different machines or numbers of threads do not compare, so they never stand side by side in one panel.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display
    from matplotlib import pyplot

    places = sorted(dict.fromkeys((row["threads"], row["machine"]) for row in rows))
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    models = {}
    for at in places:  # the fastest first
        own = [row for row in rows if (row["threads"], row["machine"]) == at]
        models[at] = list(dict.fromkeys(row["model"] for row in sorted(own, key=lambda row: row["rtf"])))
    widths = [len(names) for names in models.values()]
    figure, panels = pyplot.subplots(
        1, len(places), figsize=(2.5 + 1.9 * sum(widths), 4.2), layout="constrained", sharey=True, squeeze=False,
        gridspec_kw={"width_ratios": widths},
    )  # fmt: skip
    width = 0.85 / len(backends)
    for axes, at in zip(panels[0], places, strict=True):
        for number, backend in enumerate(backends):
            own = [r for r in rows if (r["threads"], r["machine"], r["backend"]) == (*at, backend)]
            where = [models[at].index(r["model"]) + (number + 0.5) * width - 0.425 for r in own]
            bars = axes.bar(where, [r["rtf"] for r in own], width, label=backend, color=f"C{number}")
            axes.bar_label(bars, fmt="%.2g", fontsize=8)
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        axes.set_xticks(range(len(models[at])), models[at])
        axes.set_xlim(-0.6, len(models[at]) - 0.4)
        axes.set_title(f"{at[1].replace('Processor ', '')}\n{at[0]} thread{'' if at[0] == 1 else 's'}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("real-time factor, less is faster\n(seconds of work per second of audio)")
    bars = {label: bar for axes in panels[0] for bar, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(bars.values(), bars.keys(), frameon=False, loc="outside right upper")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[JSON]...", help="Of pytest --benchmark-json.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where models.md and models.png go.")] = RESULTS,
) -> None:
    # Other measurements lie there too.
    rows = read(files or [file for file in sorted(RESULTS.glob("*.json")) if '"benchmarks"' in file.read_text()])
    out.mkdir(parents=True, exist_ok=True)
    (out / "models.md").write_text(table(rows), encoding="utf-8")
    print(out / "models.md")
    try:
        chart(rows, out / "models.png")
    except ImportError:
        print("no chart: pip install 'ussfast[bench]'")
    else:
        print(out / "models.png")


if __name__ == "__main__":
    typer.run(main)
