"""How fast a separator is on this machine, against what the machine can do, and where its time goes.

Times alone say little of a shared or throttled machine. A run therefore takes turns with a matrix product, the one
thing that every machine's library is tuned for, and is reported as a share of that rate.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ussfast.errors import InputError
from ussfast.models.presets import PRESETS
from ussfast.ops._op import OpCall, record_ops
from ussfast.profiling.flops import model_flop
from ussfast.prompts.bank import Prompt
from ussfast.separator import Separator

REST = "everything else"


class Gemm:
    """The yardstick: float32 products of square matrices, `flop` operations per call."""

    def __init__(self, device: torch.device, products: int = 1):
        # A GPU needs far more work per product before it is busy.
        size = 4096 if device.type == "cuda" else 768
        self.a, self.products = torch.randn(size, size, device=device), products
        self.flop = 2 * size**3 * products

    def __call__(self) -> None:
        for _ in range(self.products):
            torch.mm(self.a, self.a)


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call, until the GPU is done with it too."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def take_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> list[dict[str, float]]:
    """Seconds of each call, per round; one call of each before, for pages, caches and compilation."""
    with torch.inference_mode():
        for call in calls.values():
            timed(call)
        return [{name: timed(call) for name, call in calls.items()} for _ in range(rounds)]


def machine(device: torch.device | None = None) -> str:
    """The name of the device, or of this machine's best one."""
    if torch.cuda.is_available() and (device is None or device.type == "cuda"):
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Speed:
    """seconds: of audio. run_seconds: that one run takes (median). Rates in operations per second."""

    seconds: float
    run_seconds: float
    flop: int
    gemm_rate: float

    @property
    def rtf(self) -> float:
        """Real-time factor: run time by duration, so less is faster."""
        return self.run_seconds / self.seconds

    @property
    def rate(self) -> float:
        return self.flop / self.run_seconds

    @property
    def share(self) -> float:
        """Of the float32 matrix-product rate; lower precisions may exceed 1."""
        return self.rate / self.gemm_rate


@dataclass(frozen=True)
class Row:
    """One op in one run: calls (None for what is outside of ops), share of time, operations per second (None: none)."""

    op: str
    calls: int | None
    share: float
    rate: float | None


def open_model(name: str, prompts: Sequence[str], **settings: Any) -> Separator:
    """The model of that name as Separator takes it, or a preset with random weights; a directory comes first."""
    if name in PRESETS and not Path(name).expanduser().is_dir():
        return Separator.from_preset(name, prompts, **settings)
    return Separator(name, prompts, **settings)


def prompts_of(separator: Separator) -> tuple[str, ...]:
    """The separator's prompts, or the first two that it knows: for the time, only their number matters.

    Where prompts are vectors without names, one is made up.
    """
    size = separator.prompts.prompt_size
    if size is not None and not separator.prompts:
        vector = torch.randn(size, generator=torch.Generator().manual_seed(0))
        separator.prompts.add(Prompt("noise", vector, "enrolled"))
    return separator.default_prompts or tuple(separator.prompts)[:2]


def one_window(separator: Separator, seconds: float) -> tuple[Callable[[], Any], int]:
    """A run on that much noise, and its operations.

    Raises:
        InputError: the separator would not take that much audio in a single window of that length.
    """
    rate, policy = separator.sample_rate, separator.policy
    if not 2 / rate <= seconds <= policy.segment:
        raise InputError(
            f"{seconds:g} s: one window is measured, 2 samples to the separator's segment of {policy.segment:g} s"
        )
    if policy.stitch != "fade":
        raise InputError("a separator with published stitching pads its windows: measure one with stitch='fade'")
    samples, prompts = round(seconds * rate), prompts_of(separator)
    noise = np.random.default_rng(0).normal(0, 0.1, (1, samples)).astype(np.float32)
    flop = model_flop(separator.engine.model.config, samples, len(separator.labels(prompts)))
    return lambda: separator.separate(noise, rate, prompts=prompts or None), flop


def measure(separator: Separator, seconds: float = 6.0, rounds: int = 5) -> Speed:
    """Medians over rounds in which one window and a matrix product take turns."""
    run, flop = one_window(separator, seconds)
    gemm = Gemm(separator.engine.device, products=4)
    found = take_turns({"gemm": gemm, "run": run}, rounds)
    median = {name: statistics.median(r[name] for r in found) for name in ("gemm", "run")}
    return Speed(seconds, median["run"], flop, gemm.flop / median["gemm"])


def profile(separator: Separator, seconds: float = 6.0, repeats: int = 5) -> list[Row]:
    """Where the time of one window goes: the repeat of median duration, ops by their share, and the rest last."""
    run, flop = one_window(separator, seconds)
    timed(run)
    found: list[tuple[float, list[OpCall]]] = []
    for _ in range(repeats):
        with record_ops() as calls:
            found.append((timed(run), calls))
    total, calls = sorted(found, key=lambda pair: pair[0])[(repeats - 1) // 2]
    rows = []
    for name in {call.name: None for call in calls}:
        own = [call for call in calls if call.name == name]
        rows.append(_row(name, len(own), sum(c.seconds for c in own), sum(c.flop for c in own), total))
    rows.sort(key=lambda row: -row.share)
    rest = total - sum(call.seconds for call in calls), flop - sum(call.flop for call in calls)
    return [*rows, _row(REST, None, *rest, total)]


def _row(name: str, calls: int | None, seconds: float, flop: int, total: float) -> Row:
    return Row(name, calls, seconds / total, flop / seconds if flop > 0 and seconds > 0 else None)


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    width = max(len(row.op) for row in rows)
    lines = [f"{'op':{width}}  calls   time  GFLOP/s"]
    for row in rows:
        calls = "" if row.calls is None else str(row.calls)
        rate = "" if row.rate is None else f"{row.rate / 1e9:.1f}"
        lines.append(f"{row.op:{width}}  {calls:>5}  {row.share:>5.1%}  {rate:>7}".rstrip())
    return "\n".join(lines)
