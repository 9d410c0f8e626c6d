"""What was built and measured, as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from ussfast.export.trt.build import BuiltEngine


def table(built: Sequence[BuiltEngine]) -> str:
    """One line per engine and case, in columns."""
    rows = [("graph", "what", "sizes", "result")]
    for engine in built:
        rows.append((engine.graph, "engine", "", "kept" if engine.reused else f"built in {engine.seconds:.0f} s"))
        for case in (engine.parity or {}).get("cases", ()):
            rows.append((engine.graph, case.get("output", "parity"), _sizes(case["sizes"]), _verdict(case)))
        for case in (engine.latency or {}).get("cases", ()):
            times = f"median {case['median_ms']:.3f} ms, p99 {case['p99_ms']:.3f} ms"
            rows.append((engine.graph, "latency", _sizes(case["sizes"]), times))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ("  ".join([*map(str.ljust, row, widths), row[3]]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def summary(built: Sequence[BuiltEngine]) -> list[dict[str, Any]]:
    """The same as plain values."""
    return [
        {
            "graph": engine.graph,
            "engine": engine.path.name,
            "seconds": round(engine.seconds, 3),
            "reused": engine.reused,
            "good": engine.good,
            "parity": engine.parity,
            "latency": engine.latency,
        }
        for engine in built
    ]


def _sizes(sizes: Mapping[str, int]) -> str:
    return " ".join(f"{name}={size}" for name, size in sizes.items())


def _verdict(case: Mapping[str, Any]) -> str:
    if case["good"] is None:
        return f"not compared: {case['reason']}"
    about = case.get("reason") or f"{case['db']:.1f} dB, largest difference {case['max_difference']:.2g}"
    return about if case["good"] else f"DIFFERS: {about}"
