"""Every Triton launcher at the models' shapes: time, share of the measured matrix rate and of the copy bandwidth.

The cases are the `specimens` of ussfast/ops/_triton with random data, so what is compiled in CI is what is timed here.
"""

import os

import machine
import pytest
import torch

from ussfast.ops._op import OPS, use_reference
from ussfast.ops.aot import modules

# A gradient's scale and sum order differ; results of bf16 round each factor.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
SEED = 0


def cases():
    if not torch.cuda.is_available():
        return []
    found = []
    for module in modules():
        name = module.__name__.rsplit(".", 1)[1]
        for label, launcher, arguments in module.specimens():
            first = next(a for a in flat(arguments) if torch.is_tensor(a))
            if first.dtype != torch.float64:
                found.append(pytest.param(name, launcher, arguments, id=f"{launcher.__name__} {label}"))
    return found


def drawn(value):
    """Random data in the place of a tensor without any, with its strides."""
    if isinstance(value, (tuple, list)):
        return type(value)(drawn(v) for v in value)
    if not torch.is_tensor(value):
        return value
    here = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
    if not value.is_floating_point():
        return here.zero_()
    return here.normal_().mul_(value.shape[-1] ** -0.5 if value.dim() > 1 else 0.5)


def flat(value):
    """What is in nested tuples."""
    if isinstance(value, (tuple, list)):
        return [inner for v in value for inner in flat(v)]
    return [value]


def moved(arguments, result) -> int:
    """Bytes that must be read and written once."""
    return sum(t.nbytes for t in flat((arguments, result)) if torch.is_tensor(t))


@pytest.mark.parametrize("name, launcher, arguments", cases())
def bench_kernel(benchmark, name, launcher, arguments):
    torch.manual_seed(SEED)
    arguments = tuple(drawn(value) for value in arguments)
    spec = OPS[name]
    backward = launcher.__name__ != name
    with torch.inference_mode():
        result = launcher(*arguments)
        assert result is not None, "this specimen has no kernel"
        bf16 = any(
            v == "bfloat16" if isinstance(v, str) else getattr(v, "dtype", 0) == torch.bfloat16 for v in flat(arguments)
        )
        rates = machine.ceilings()
        call = launcher.__name__, arguments
        milliseconds = machine.milliseconds(lambda: launcher(*arguments))
    info = {
        "kernel": call[0],
        "shape": str([list(a.shape) for a in flat(arguments) if torch.is_tensor(a)][:2]),
        "bf16": bf16,
        "milliseconds": round(milliseconds, 4),
        "bytes": moved(arguments, result),
        "copy_share": round(moved(arguments, result) / milliseconds / 1e9 / rates["copy_tbps"], 4),
    }
    if not backward:
        with torch.inference_mode(), use_reference():
            pairs = zip(flat((result,)), flat((spec.reference(*arguments),)), strict=True)
            worst = max(((r - e.float()).abs().max() / e.float().abs().max()).item() for r, e in pairs)
            assert worst <= TOLERANCE[torch.bfloat16 if bf16 else torch.float32], worst  # never time a wrong result
            info |= {
                "difference": worst,
                "reference_milliseconds": machine.milliseconds(lambda: spec.reference(*arguments), 50),
            }
        info["speedup"] = round(info["reference_milliseconds"] / milliseconds, 2)
        if spec.flop is not None:
            flop = spec.flop(*arguments)
            info |= {
                "flop": flop,
                "tflops": round(flop / milliseconds / 1e9, 2),
                "gemm_share": round(flop / milliseconds / 1e9 / rates["bf16_tflops" if bf16 else "float32_tflops"], 4),
            }
    benchmark.group = name
    benchmark.extra_info |= info | {"tuned": os.environ.get("USSFAST_TUNE") == "1"}
    with torch.inference_mode():
        benchmark.pedantic(lambda: (launcher(*arguments), torch.cuda.synchronize()), rounds=3, iterations=1)
