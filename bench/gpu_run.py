"""Tests and benches on a GPU in one command each, with the machine's name in what they write.

    python bench/gpu_run.py test  -o bench/results     # make gpu-test:  gpu-test.json
    python bench/gpu_run.py bench -o bench/results     # make gpu-bench: gpu-bench.json, gpu-roofline.png

Both end with a failure where there is no CUDA device, and stay under eight minutes on an H100.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import typer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "gpu"))
app = typer.Typer(add_completion=False, help=__doc__)
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the JSON files.")]


class Outcomes:
    """What became of each test."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.failures: list[dict[str, str]] = []
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] = self.counts.get(report.outcome, 0) + 1
            self.seconds[report.nodeid] = round(report.duration, 2)
        if report.failed:
            self.failures.append({"test": report.nodeid, "why": str(report.longrepr)[-2000:]})


def need_gpu() -> None:
    if not torch.cuda.is_available():
        why = "no CUDA device" if torch.version.cuda else "this torch is built without CUDA"
        print(f"{why}: GPU tests and benches cannot run here", file=sys.stderr)
        raise typer.Exit(1)
    os.environ["FAIL_WITHOUT_CUDA"] = "1"


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)
    print(path)


@app.command()
def test(
    output: Output = HERE / "results", only: Annotated[str, typer.Option("-k", help="As for pytest.")] = ""
) -> None:
    """Every test that needs a GPU: parity of kernels and models, gradients, graphs, streams."""
    need_gpu()
    import machine

    outcomes, start = Outcomes(), time.perf_counter()
    tests = str(HERE.parent / "tests")
    code = pytest.main(
        ["-q", "-m", "gpu", "--durations=10", tests, *(["-k", only] if only else [])], plugins=[outcomes]
    )
    slowest = dict(sorted(outcomes.seconds.items(), key=lambda item: -item[1])[:10])
    found = {"seconds": round(time.perf_counter() - start, 1), "outcomes": outcomes.counts}
    write(
        output / "gpu-test.json",
        {"machine": machine.gpu_info()} | found | {"failures": outcomes.failures, "slowest": slowest},
    )
    raise typer.Exit(int(code))


@app.command()
def bench(
    output: Output = HERE / "results", only: Annotated[str, typer.Option("-k", help="As for pytest.")] = ""
) -> None:
    """Kernels against the machine's own rates, whole models against PyTorch, latency; and the roofline."""
    need_gpu()
    output.mkdir(parents=True, exist_ok=True)
    file = output / "gpu-bench.json"
    selected = ["-k", only] if only else []
    code = pytest.main(["-q", str(HERE / "gpu"), f"--benchmark-json={file}", "--benchmark-disable-gc", *selected])
    if code == 0:
        from roofline import draw

        print(draw(json.loads(file.read_text()), output / "gpu-roofline.png"))
    raise typer.Exit(int(code))


if __name__ == "__main__":
    app()
