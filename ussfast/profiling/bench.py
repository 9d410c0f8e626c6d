"""`ussfast bench`: what `ussfast.profiling.profile` and `ussfast.train.bench` measure, printed."""

import dataclasses
import json
from collections.abc import Sequence

import torch

from ussfast.engine.threads import check_threads
from ussfast.errors import InputError
from ussfast.profiling.profile import machine, measure, open_model, profile, prompts_of, table


def run(
    model: str,
    prompts: Sequence[str],
    seconds: float,
    rounds: int,
    threads: int | None,
    with_profile: bool,
    as_json: bool,
    **settings: str,
) -> None:
    """Measures one window of `seconds` and prints the result; settings are those of Separator."""
    if not 0 < seconds < float("inf"):
        raise InputError(f"seconds must be above 0 and finite, got {seconds:g}")
    separator = open_model(model, prompts, segment=seconds, **settings)
    chosen = prompts_of(separator)
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else check_threads(threads))
    try:
        speed = measure(separator, seconds, rounds)
        rows = profile(separator, seconds, rounds) if with_profile else []
        facts = {
            "model": separator.info.name,
            "prompts": list(chosen),
            "backend": separator.engine.backend,
            "dtype": settings["dtype"],
            "machine": machine(separator.engine.device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "seconds": seconds,
            "run_seconds": speed.run_seconds,
            "rtf": speed.rtf,
            "gflop": speed.flop / 1e9,
            "gflops": speed.rate / 1e9,
            "gemm_gflops": speed.gemm_rate / 1e9,
            "gemm_share": speed.share,
        }
    finally:
        torch.set_num_threads(before)
    if as_json:
        print(json.dumps(facts | ({"profile": [dataclasses.asdict(r) for r in rows]} if rows else {}), indent=1))
        return
    print(f"{facts['model']}: {', '.join(separator.labels(chosen))}; {facts['backend']}, dtype {facts['dtype']}")
    print(f"{facts['machine']}, torch {facts['torch']}, {facts['threads']} threads")
    print(f"RTF {speed.rtf:.4f}: {seconds:g} s of audio in {speed.run_seconds:.4f} s (median of {rounds} runs)")
    print(
        f"{speed.rate / 1e9:.1f} GFLOP/s ({speed.flop / 1e9:.1f} GFLOP), {speed.share:.1%} of the rate of float32 "
        f"matrix products ({speed.gemm_rate / 1e9:.1f} GFLOP/s)"
    )
    if rows:
        print()
        print(table(rows))
