"""An exported model in onnxruntime against our kernels: the same audio, one thread each, in turn.

    python bench/backends.py [DIR] --model default --rounds 15

DIR: of `python -m ussfast.export MODEL --onnx`; without one the model is exported first, for a minute or two.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from ussfast import Separator, demo
from ussfast.audio import load
from ussfast.engine.backends.onnx import OnnxRunner
from ussfast.export import export_onnx
from ussfast.profiling.profile import Gemm, timed

SECONDS, HOPS = 6.0, 200


def whole(separator: Separator, audio: np.ndarray) -> float:
    start = time.perf_counter()
    separator.separate(audio, separator.sample_rate)
    return time.perf_counter() - start


def hops_of_ours(separator: Separator, audio: np.ndarray) -> list[float]:
    hop, found = separator.engine.model.config.stft.hop, []
    with separator.session(separator.sample_rate, channels=1) as session:
        for at in range(0, HOPS * hop, hop):
            start = time.perf_counter()
            session.push(audio[:, at : at + hop])
            found.append(time.perf_counter() - start)
    return found[HOPS // 10 :]


def hops_of_step(runner: OnnxRunner, vectors: torch.Tensor, audio: np.ndarray) -> list[float]:
    """As a host does it: the graph `step`, what came out goes in again."""
    graph, found = runner.exported.graph("step"), []
    sizes = {"batch": 1, "sources": len(vectors)}
    ports = {port.name: [sizes.get(str(d), d) for d in port.shape] for port in graph.inputs}
    given = {before: torch.zeros([int(n) for n in ports[before]]) for before, _ in graph.state}
    given |= runner.run("prompts", {"prompts": vectors[None]})
    hop = runner.exported.hop or 1
    for at in range(0, HOPS * hop, hop):
        start = time.perf_counter()
        out = runner.run("step", given | {"audio": torch.from_numpy(audio[:, at : at + hop])})
        found.append(time.perf_counter() - start)
        given |= {before: out[after] for before, after in graph.state}
    return found[HOPS // 10 :]


def main(
    directory: Annotated[Path | None, typer.Argument()] = None,
    model: str = "default",
    rounds: Annotated[int, typer.Option(min=3)] = 15,
    prompt: list[str] | None = None,
) -> None:
    torch.set_num_threads(1)
    prompts = prompt or ["speech", "sfx"]
    if directory is None:
        directory = Path(tempfile.mkdtemp()) / "export"
        export_onnx(model, directory, told=print)
    ours = {dtype: Separator(model, prompts, device="cpu", dtype=dtype) for dtype in ("float32", "bf16")}
    theirs = Separator(directory, prompts, backend="onnx")
    rate = theirs.sample_rate
    audio = load(Path(demo.__file__).parent / "mixture.flac", None, rate)[0][:1, : round(SECONDS * rate)]
    audio = np.ascontiguousarray(np.pad(audio, ((0, 0), (0, HOPS * 4096))))
    cases = {f"ours, {dtype}": separator for dtype, separator in ours.items()} | {"onnxruntime": theirs}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, separator in cases.items():
            times[name].append(whole(separator, audio[:, : round(SECONDS * rate)]))
    gemm = Gemm(torch.device("cpu"))
    rate_of_products = gemm.flop / float(np.median([timed(gemm) for _ in range(20)])) / 1e9
    print(f"GEMM, one thread: {rate_of_products:.0f} GFLOP/s. {SECONDS:g} s, {len(prompts)} prompts, {rounds} rounds:")
    base = float(np.median(times["ours, float32"]))
    for name, found in times.items():
        median = float(np.median(found))
        print(f"  {name}: {1000 * median:.0f} ms, RTF {median / SECONDS:.3f}, {median / base:.2f} times ours")
    if theirs.engine.causal is None or "step" not in theirs.engine.model.about.graphs:  # type: ignore[union-attr]
        return
    vectors = torch.stack([ours["float32"].prompts[name].vector for name in prompts]).float()
    runner = OnnxRunner(directory, threads=1)
    steps: dict[str, list[float]] = {
        name: [] for name in ("ours, bf16", "ours, float32", "onnxruntime, step", "onnxruntime, Separator")
    }
    for _ in range(max(3, rounds // 5)):
        steps["ours, bf16"] += hops_of_ours(ours["bf16"], audio)
        steps["ours, float32"] += hops_of_ours(ours["float32"], audio)
        steps["onnxruntime, Separator"] += hops_of_ours(theirs, audio)
        steps["onnxruntime, step"] += hops_of_step(runner, vectors, audio)
    print("a hop of a stream, median and 99th percentile (ms):")
    for name, found in steps.items():
        print(f"  {name}: {1000 * float(np.median(found)):.3f}, {1000 * float(np.percentile(found, 99)):.3f}")


if __name__ == "__main__":
    typer.run(main)
