"""A table and a chart of model benches.

    python bench/report.py bench/results/models.json --out bench/results

Reads what pytest-benchmark wrote with --benchmark-json; by default every JSON file in bench/results. Writes models.md
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
    """Bars of the share of the matrix-product rate: groups are models (and machines), colours are backends."""
    import matplotlib

    matplotlib.use("Agg")  # no display
    from matplotlib import pyplot

    groups = list(dict.fromkeys((row["model"], row["machine"], row["threads"]) for row in rows))
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    several = len({group[1:] for group in groups}) > 1
    figure, axes = pyplot.subplots(figsize=(2 + 2 * len(groups), 4), layout="constrained")
    width = 0.8 / len(backends)
    for place, backend in enumerate(backends):
        own = [row for row in rows if row["backend"] == backend]
        where = [groups.index((r["model"], r["machine"], r["threads"])) + (place + 0.5) * width - 0.4 for r in own]
        bars = axes.bar(where, [100 * row["gemm_share"] for row in own], width, label=backend)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    names = [f"{model}\n{machine}, {threads} threads" if several else model for model, machine, threads in groups]
    axes.set_xticks(range(len(groups)), names, fontsize=8 if several else 10)
    axes.set_ylabel("share of the float32 GEMM rate (%)")
    axes.set_title("" if several else f"{groups[0][1]}, {groups[0][2]} threads", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[JSON]...", help="Of pytest --benchmark-json.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where models.md and models.png go.")] = RESULTS,
) -> None:
    rows = read(files or sorted(RESULTS.glob("*.json")))
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
