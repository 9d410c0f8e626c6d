"""`ussfast models`: what can be used without a download."""

import json
from typing import Any

from ussfast.checkpoints import store
from ussfast.checkpoints.info import ModelInfo
from ussfast.long_audio.policy import default_policy
from ussfast.models.presets import PRESETS
from ussfast.prompts.tasks import TASKS, described


def show(as_json: bool) -> None:
    """Prints models, prompt sets and presets; sizes in bytes and latencies in seconds with `as_json`."""
    found = [(info, _more(info)) for info in store.available()]
    if as_json:
        rows = [
            {"name": m.name, "architecture": m.architecture, "license": m.license, "sample_rate": m.sample_rate,
             "parameters": m.parameters, "prompts": list(m.prompts), "labels": list(m.labels),
             "detector": m.detects} | more
            for m, more in found
        ]  # fmt: skip
        tasks = {name: {"prompts": list(task.prompts), "keep": list(task.keep)} for name, task in TASKS.items()}
        print(json.dumps({"models": rows, "tasks": tasks, "presets": sorted(PRESETS)}, indent=1))
        return
    for m, more in found:
        size = f"{more['bytes'] / 2**20:.1f} MiB"
        print(f"{m.name}  ({m.architecture}, {m.parameters / 1e6:.2f} M parameters, {size}, {m.sample_rate} Hz)")
        if m.detects:
            print("  a detector: says which sounds there are, separates nothing")
        else:
            latency = _duration(more["latency_seconds"])
            print(f"  {'causal' if more['causal'] else 'not causal'}, latency of a stream {latency}")
        print(f"  license: {m.license}")
        kind = "labels" if m.detects else "sources" if m.labels else "prompts"
        print(f"  {kind}: {_few(m.prompts or m.labels) or 'vectors, none of its own'}")
    if not found:
        print("no embedded or cached models")
    print("tasks (--task):")
    width = max(map(len, TASKS))
    for name, task in TASKS.items():
        print(f"  {name:{width}}  {task.help}: {described(name)}")
    print(f"presets (random weights, for benchmarks): {', '.join(sorted(PRESETS))}")


def _more(info: ModelInfo) -> dict[str, Any]:
    """Whether it is causal, the latency of a stream with the default windows in seconds, its size on disk in bytes.

    A detector has no streams.
    """
    causal = info.architecture == "causal"
    latency: float | None = None
    if causal:
        latency = info.config.latency_samples / info.sample_rate
    elif not info.detects:  # without a wish, streams have the windows of files, and the first of those is a full one
        latency = default_policy(info.config.segment_seconds, None, None, "fade").segment
    files = info.path.iterdir() if info.path else ()
    size = sum(file.stat().st_size for file in files if file.is_file())
    return {"causal": causal, "latency_seconds": latency, "bytes": size}


def _few(names: tuple[str, ...], most: int = 40) -> str:
    """Names in a line; detectors may know hundreds."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{1000 * seconds:g} ms"
