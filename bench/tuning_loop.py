"""Prompt tuning against the loop that anybody would write: the whole model in plain PyTorch, gradients of all weights.

    python bench/tuning_loop.py [-m default -m tuss-medium ...] [--steps 12] [--seconds 2] [-o FILE.json]

Both take the same four mixtures per step (noise: time does not depend on what is in them), on one thread, one after the
other, each in a process of its own, twice. Prints steps per second, and the highest memory above that of the loaded
model. "with making": when what is computed once for a mixture is counted too, as often as `ussfast tune` does.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BATCH = 4


def loaded(name: str) -> Any:
    from ussfast import Separator

    if name == "default" or "/" in name:
        return Separator(name, device="cpu")
    return Separator.from_preset(name, device="cpu")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def once(name: str, kind: str, steps: int, seconds: float) -> dict[str, float]:
    import torch

    from ussfast.ops import use_reference
    from ussfast.tuning.config import TuneConfig
    from ussfast.tuning.frozen import Frozen
    from ussfast.tuning.tuner import loss_of

    torch.set_num_threads(1)
    separator = loaded(name)
    model, rate = separator.engine.model, separator.sample_rate
    audio = 0.1 * torch.randn(BATCH, round(seconds * rate), generator=torch.Generator().manual_seed(0))
    vector = torch.nn.Parameter(torch.randn(model.prompt_size, generator=torch.Generator().manual_seed(1)))
    before, making = peak(), 0.0
    if kind == "plain":
        for parameter in model.parameters():
            parameter.requires_grad_()
        learning = [vector, *model.parameters()]

        def estimate() -> torch.Tensor:
            with use_reference():
                return model.separate(audio, vector[None])[:, 0]
    else:
        frozen = Frozen(model)
        begun = time.perf_counter()
        ahead = frozen.ahead(audio)
        config = TuneConfig()
        made = config.mixtures + config.renew * (config.steps // config.every)
        batches = config.steps * config.folds
        making = (time.perf_counter() - begun) * (made / BATCH) / batches  # per batch
        learning = [vector]

        def estimate() -> torch.Tensor:
            return frozen.estimate(ahead, vector)

    # The plain loop makes all gradients, but moves the prompt alone, too.
    optimizer = torch.optim.Adam([vector], lr=3e-4)
    with torch.inference_mode(False), torch.enable_grad():
        for step in range(steps + 2):
            if step == 2:
                begun = time.perf_counter()
            for one in learning:
                one.grad = None
            loss_of(estimate(), audio / 2, "snr").backward()
            optimizer.step()
    each = (time.perf_counter() - begun) / steps
    return {"rate": 1 / each, "with_making": 1 / (each + making), "mib": peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-m", "--model", action="append")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--once", nargs=2)
    given = parser.parse_args()
    if given.once:
        print(json.dumps(once(*given.once, given.steps, given.seconds)))
        return
    found: dict[str, dict[str, Any]] = {}
    for name in given.model or ["default"]:
        rows: dict[str, list[dict[str, float]]] = {"plain": [], "tuned": []}
        for _ in range(2):
            for kind, done in rows.items():
                command = [sys.executable, __file__, "--once", name, kind]
                command += ["--steps", str(given.steps), "--seconds", str(given.seconds)]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                done.append(json.loads(out))
        best = {kind: max(done, key=lambda row: row["rate"]) for kind, done in rows.items()}
        found[name] = best
        plain, tuned = best["plain"], best["tuned"]
        print(
            f"{name}: {plain['rate']:.2f} -> {tuned['rate']:.2f} steps/s, {tuned['rate'] / plain['rate']:.1f} times "
            f"({tuned['with_making'] / plain['rate']:.1f} with making); {plain['mib']:.0f} -> {tuned['mib']:.0f} MiB",
            flush=True,
        )
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
