"""A step of prompt tuning with the default: the head and the inverse transform, forward and backward, of four mixtures.

    python -m pytest bench/models/bench_tuning_step.py -q

"all weights" also makes their gradients, as a plain loop would; both it and "float32" are without bfloat16 products.
"""

import os
from typing import Any

import pytest
import torch

from ussfast import Separator
from ussfast.tuning.frozen import Frozen
from ussfast.tuning.tuner import loss_of

ROUNDS = int(os.environ.get("BENCH_ROUNDS", 5))
SECONDS = float(os.environ.get("BENCH_SECONDS", 3))


def stepper(separator: Separator, precision: str | None, learns: bool) -> Any:
    """A function that makes a step and returns the prompt's gradient; precision: None for what tuning takes."""
    frozen = Frozen(separator.engine.model)
    frozen.precision = precision or frozen.precision
    for parameter in frozen.model.parameters():
        parameter.requires_grad_(learns)
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(4, round(SECONDS * separator.sample_rate))
    ahead, vector = frozen.ahead(audio), separator.prompts["sfx"].vector.clone()

    def step() -> torch.Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            prompt = vector.clone().requires_grad_()
            loss_of(frozen.estimate(ahead, prompt), audio / 2, "snr").backward()
        assert prompt.grad is not None
        return prompt.grad

    return step


@pytest.mark.parametrize("seconds", [SECONDS])
def bench_tuning_step(benchmark, interleaved, seconds):
    separator = Separator("default", device="cpu")
    calls = {
        "as tuned": stepper(separator, None, False),
        "float32": stepper(separator, "float32", False),
        "all weights": stepper(separator, "float32", True),
    }
    assert torch.allclose(calls["float32"](), calls["all weights"](), rtol=1e-4, atol=1e-6)
    benchmark.group = f"step of tuning, 4 mixtures of {seconds:g} s"
    interleaved(calls, subject="as tuned", rounds=ROUNDS)
