"""docs/performance.md: tables of what was measured, from bench/results.

    python scripts/performance.py            # writes the page
    python scripts/performance.py --check    # 1 if it is another one: make docs

A figure is on the page only as its file has it; which command measures it is said beside it.
"""

import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "docs" / "performance.md"
HEAD = """\
# Performance

What was measured, from the files in `bench/results`, by `scripts/performance.py`. Times of different runs, machines or
days do not compare: each table is one run, unless it names several machines. **Nothing here was measured on a GPU yet**
([gpu.md](gpu.md)). A real-time factor (RTF) is time of work by duration of the audio: 0.02 is fifty times as fast as
playing it. SI-SDR improvement is explained in [evaluation.md](evaluation.md#metrics). Your own machine:
`ussfast bench`, `make bench-models`, `make bench-streaming`.
"""


def build(results: Path = RESULTS) -> str:
    """The page; OSError, KeyError: a file that is missing, or not as its bench writes it."""
    return "\n\n".join([HEAD.strip(), quality(results), peers(results), models(results), streams(results),
                        hour(results), learning(results), tuning(results), callers(results)]) + "\n"  # fmt: skip


def quality(results: Path) -> str:
    return (
        "## How well the default separates\n\n"
        f"{_first_table(results / 'training' / 'default-evaluation.md')}\n\n"
        f"`ussfast evaluate`; {_link('training/default-evaluation.md')} has medians and other metrics, its "
        "[card](../ussfast/weights/default/README.md) what it is not good at."
    )


def peers(results: Path) -> str:
    found = _read(results / "peers.json")
    tasks = list(dict.fromkeys(score["task"] for score in found["scores"]))
    rows = []
    for name, system in found["systems"].items():
        own = [score for score in found["scores"] if score["system"] == name]
        gains = [np.mean([s["si_sdr_improvement"] for s in own if s["task"] == task]) for task in tasks]
        factor = np.mean([score["cpu_per_second"] for score in own])
        rows.append([name, *(f"{gain:+.1f}" for gain in gains), f"{factor:.3f}", f"{system['latency_ms']:.0f} ms",
                     f"{system['memory_mib']:.0f} MiB"])  # fmt: skip
    columns = ["system", *(task.replace("_", " ") for task in tasks), "RTF", "latency", "memory"]
    return (
        f"## The voice, beside denoisers\n\n{_table(columns, rows)}\n\n"
        f"SI-SDR improvement of the voice in dB, means of {found['count']} mixtures of {found['seconds']:g} s; one "
        f"thread, {found['machine']}. `bench/peers/compare.py`, {_link('peers.json')}."
    )


def models(results: Path) -> str:
    report = _module(ROOT / "bench" / "report.py")
    # As bench/report.py finds them: others lie there too.
    files = [file for file in sorted(results.glob("*.json")) if '"benchmarks"' in file.read_text()]
    return (
        f"## Whole models\n\n{report.table(report.read(files)).strip()} Presets have random weights.\n\n"
        "![Real-time factors of models by backend](../bench/results/models.png)\n\n"
        "`make bench-models`. What limits the CPU path, and how to choose a precision: [cpu.md](cpu.md)."
    )


def streams(results: Path) -> str:
    benches = {bench["name"]: bench["extra_info"] for bench in _read(results / "streaming.json")["benchmarks"]}
    sessions, pools = [], []
    for name, info in benches.items():
        steps = info["step_ms"]
        if isinstance(steps, dict):
            times = [f"{steps['p50']:.2f}", f"{steps['p99']:.2f}", f"{info['rtf']:.3f}"]
            if name.startswith("bench_session"):
                what = {"bench_session_float32": "2, float32", "bench_session_reference": "2, plain PyTorch"}
                rate, latency = info.get("rate", 32000), info.get("latency_ms", 32.0)
                prompts = what.get(name) or str(info["prompts"])
                sessions.append([prompts, f"{rate / 1000:g} kHz", f"{latency:.0f} ms", *times])
            elif name.startswith("bench_pool"):
                pools.append([str(info["streams"]), *times, f"{info['streams_per_core']:.0f}"])
    change = benches["bench_change_of_prompts"]
    info = next(iter(benches.values()))
    return (
        "## Live streams\n\n"
        + _table(["prompts", "rate", "latency", "hop, median (ms)", "99th percentile", "RTF"], sessions)
        + f"\n\nThe default model, hops of {info['hop_ms']:g} ms, {info['threads']} thread, {info['machine']}. "
        f"Another set of prompts costs {change['change_per_step']:.2f} of a hop's work the first time.\n\n"
        "Many streams in one pool:\n\n"
        + _table(["streams", "hop of all, median (ms)", "99th percentile", "RTF", "streams per core"], pools)
        + f"\n\n`make bench-streaming`, {_link('streaming.json')}; explained in [streaming.md](streaming.md#speed)."
    )


def hour(results: Path) -> str:
    found = _read(results / "stream-hour.json")
    return (
        "## An hour of live audio\n\n"
        f"{found['minutes']} minutes at {found['rate'] / 1000:g} kHz: RTF {found['rtf']:.3f}, {found['samples_in']:,} "
        f"samples in and {found['samples_out']:,} out, {found['dropouts']} dropouts with {found['buffer_ms']:.0f} ms "
        f"of buffer, memory {found['memory_change_after_first_minute_mib']:+.1f} MiB after the first minute; "
        f"{found['machine']}. "
        f"`bench/stream_hour.py`, {_link('stream-hour.json')}."
    )


def learning(results: Path) -> str:
    found = _read(results / "stream-learning.json")
    alone, beside, live = found["steps_ms_without"], found["steps_ms_with"], found["by_the_clock_with"]
    rows = [[name, *(f"{steps[key]:.2f}" for key in ("p50", "p99", "max"))]
            for name, steps in (("alone", alone), ("beside a prompt that learns", beside))]  # fmt: skip
    return (
        f"## A stream while a prompt learns\n\n{_table(['hop (ms)', 'median', '99th percentile', 'slowest'], rows)}\n\n"
        f"In real time for {live['seconds']} s: {live['dropouts']} dropouts, {live['prompts_switched_in']} better "
        f"prompts switched in; {found['machine']}. "
        f"`bench/streaming/learning.py`, {_link('stream-learning.json')}; "
        "explained in [tuning.md](tuning.md#while-a-stream-runs)."
    )


def tuning(results: Path) -> str:
    found = _read(results / "tuning" / "loop.json")
    rows = [
        [name, f"{runs['plain']['rate']:.2f}", f"{runs['tuned']['rate']:.2f}", f"{runs['plain']['mib']:.0f} MiB",
         f"{runs['tuned']['mib']:.0f} MiB"]
        for name, runs in found.items()
    ]  # fmt: skip
    columns = ["model", "plain loop (steps/s)", "`ussfast tune` (steps/s)", "memory of the first", "of the second"]
    return (
        f"## Tuning a prompt\n\n{_table(columns, rows)}\n\nThe plain loop is the whole model in PyTorch, with "
        f"gradients of all weights. One thread. `bench/tuning_loop.py`, {_link('tuning/loop.json')}.\n\n"
        "What tuning gains, by number of clips:\n\n"
        f"{_first_table(results / 'tuning' / 'default.md')}\n\n"
        f"Medians of SDR in dB. `ussfast evaluate apt`, {_link('tuning/default.md')}; [tuning.md](tuning.md)."
    )


def callers(results: Path) -> str:
    return (
        f"## One caller among others\n\n{_first_table(results / 'caller.md')}\n\n"
        f"SI-SDR improvement in dB of a live filter's output. `bench/caller.py`, {_link('caller.json')}; "
        "[integrations.md](integrations.md#the-caller-and-others)."
    )


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    lines = ["| " + " | ".join(row) + " |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def _first_table(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    end = next((number for number in range(start, len(lines)) if not lines[number].startswith("|")), len(lines))
    return "\n".join(lines[start:end])


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _link(name: str) -> str:
    return f"[{name}](../bench/results/{name})"


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(arguments: list[str]) -> int:
    text = build()
    if arguments == ["--check"]:
        if PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE} is not what bench/results has: python scripts/performance.py", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
