"""The kernels of a gpu-bench.json under the roof of the machine: rate against operations per byte.

python bench/gpu/roofline.py bench/results/gpu-bench.json -o bench/results/gpu-roofline.png
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def points(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Kernels with operations: name, bf16, operations per byte, TFLOP/s; typer.BadParameter if there are none."""
    found = [bench["extra_info"] for bench in results.get("benchmarks", [])]
    kept = [info for info in found if info.get("flop")]
    if not kept:
        raise typer.BadParameter("no kernels with matrix products in this file: make gpu-bench")
    return [
        {"name": info["kernel"], "bf16": info["bf16"], "x": info["flop"] / info["bytes"], "y": info["tflops"]}
        for info in kept
    ]


def draw(results: dict[str, Any], path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    info, found = results["machine_info"], points(results)
    roof = info["ceilings"]
    low, high = min(p["x"] for p in found) / 4, max(p["x"] for p in found) * 4
    x = np.geomspace(low, high, 200)
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for key, label, style in (("bf16_tflops", "bf16", "-"), ("float32_tflops", "float32", "--")):
        axes.plot(
            x, np.minimum(x * roof["copy_tbps"], roof[key]), "k" + style, lw=1, label=f"{label} products, measured"
        )
    for number, name in enumerate(dict.fromkeys(p["name"] for p in found)):
        for bf16, marker in ((True, "o"), (False, "s")):
            own = [p for p in found if p["name"] == name and p["bf16"] == bf16]
            label = f"{name}, {'bf16' if bf16 else 'float32'}"
            if own:
                axes.plot([p["x"] for p in own], [p["y"] for p in own], marker, color=f"C{number}", label=label)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="TFLOP/s")
    axes.set_title(f"{info['gpu']}: {roof['copy_tbps']:.2f} TB/s copy, {roof['bf16_tflops']:.0f} TFLOP/s bf16 products")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def main(
    results: Annotated[Path, typer.Argument()],
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("gpu-roofline.png"),
) -> None:
    print(draw(json.loads(results.read_text()), output))


if __name__ == "__main__":
    typer.run(main)
