"""C++ kernels, also those that only our own code calls, with arguments that do not fit: they say so, or compute.

Under AddressSanitizer (`make asan`) every access out of bounds is a finding.
"""

import random
from pathlib import Path
from typing import Any

import torch
from tiny import CAUSAL, PROMPTS, STEREO, TUSS, TUSS_SFC, noise, tiny_model
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fuzz.mutate import ODD, ODD_FLOATS
from ussfast import Separator
from ussfast.errors import InputError
from ussfast.ops._op import OPS, TRAINING

SECONDS, MIB = 10.0, 512
EACH = 6  # calls of an op that are kept
COUNTS = [number for number in ODD if number != 10**8]  # as a size it is large, but what was asked for
Call = tuple[Any, tuple[Any, ...]]


class _Recorder(TorchFunctionMode):
    """Keeps the first calls of every function of ours, with copies of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[Call]] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if str(func).startswith("ussfast."):
            known = self.calls.setdefault(str(func), [])
            if len(known) < EACH:
                known.append((func, _copied(args)))
        return func(*args, **(kwargs or {}))


def prepare(folder: Path) -> list[list[Call]]:
    recorder, device = _Recorder(), torch.device("cpu")
    with recorder:
        for config in (CAUSAL, TUSS, TUSS_SFC, STEREO):
            prompts = () if config is STEREO else ("speech", "drums")
            Separator.from_model(tiny_model(config), prompts, dtype="float32").separate(noise(2, 3000), 11025)
        _trained()
        pool = Separator.from_model(tiny_model(CAUSAL), PROMPTS[:2], dtype="float32").pool(3, 8000, channels=2)
        streams = [pool.join(), pool.join()]
        pool.push({stream: noise(2, 700) for stream in streams})
        pool.push({streams[1]: noise(2, 100)})
        mask, spec = torch.randn(2, 3, 5, 33, 2), torch.randn(2, 5, 33, 2)
        torch.ops.ussfast._masked_istft(mask, spec, torch.hann_window(64), 64, 16, 70, True)
    for name, op in OPS.items():
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            samples = list(op.samples(device, dtype))
            recorder.calls.setdefault(f"{name}, samples", []).extend((op.overload, _copied(s)) for s in samples)
    return [calls for name, calls in recorder.calls.items() if "_cpu_" not in name]


def _trained() -> None:
    """Forward and backward kernels of training, and those for gradients of the input alone."""
    for name, kernels in TRAINING.items():
        for sample in list(OPS[name].samples(torch.device("cpu"), torch.float32))[:2]:
            if not kernels.takes(sample):
                continue
            # Called here, not by autograd: functions that it calls cannot be recorded.
            out, kept = kernels.forward(sample)
            grads = torch.ones_like(out) if torch.is_tensor(out) else tuple(map(torch.ones_like, out))
            for last in (1, len(sample)):
                need = tuple(_floating(a) and i < last for i, a in enumerate(sample))
                kernels.backward(grads, list(sample), kept, need)


def one(groups: list[list[Call]], rng: random.Random, folder: Path) -> None:
    function, args = rng.choice(rng.choice(groups))
    torch.manual_seed(rng.getrandbits(32))
    changed = list(_copied(args))
    changes = rng.choice((0, 1, 1, 1, 2, 3))
    for _ in range(changes):
        place = rng.randrange(len(changed))
        changed[place] = _other(changed[place], rng)
    try:
        with torch.no_grad():
            out = function(*changed)
    except Exception as error:  # of torch's many kinds; that the process lives is what counts
        if changes:
            raise InputError(" ".join(str(error).split())) from error
        raise
    for result in out if isinstance(out, (tuple, list)) else [out]:
        if torch.is_tensor(result) and result.numel() and not result.is_meta:
            result.flatten()[-1].item()


def _floating(value: Any) -> bool:
    return torch.is_tensor(value) and value.is_floating_point()


def _copied(value: Any) -> Any:
    if torch.is_tensor(value):
        with torch.inference_mode(False):
            same = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
            return same.copy_(value.detach())
    return type(value)(_copied(item) for item in value) if isinstance(value, (tuple, list)) else value


def _other(value: Any, rng: random.Random) -> Any:
    if torch.is_tensor(value):
        return _tensor(value, rng)
    match value:
        case bool():
            return not value
        case int():
            return rng.choice((value - 1, value + 1, 2 * value, -value, 0, rng.choice(COUNTS)))
        case float():
            return rng.choice(ODD_FLOATS)
        case str():
            return rng.choice(("float32", "bfloat16", "int8", "", "float64"))
        case None:
            return torch.randn(rng.choice(((), (3,), (2, 3, 4), (0,))))
    items = list(value)
    place = rng.randrange(len(items) + 1)
    match rng.randrange(4):
        case 0 if items[place:]:
            del items[place]
        case 1 if items:
            items.insert(place, items[place - 1])
        case _ if items[place:]:
            items[place] = _other(items[place], rng)
    return items


def _tensor(value: Tensor, rng: random.Random) -> Any:
    axis = rng.randrange(value.dim()) if value.dim() else 0
    match rng.randrange(12):
        case 0 if value.dim():
            return value.narrow(axis, 0, rng.randrange(value.shape[axis] + 1))
        case 1 if value.dim():
            return torch.cat((value, value.narrow(axis, 0, min(1, value.shape[axis]))), axis)
        case 2:
            return value.unsqueeze(0)
        case 3 if value.dim():
            return value.select(axis, 0) if value.shape[axis] else value
        case 4 if value.dim() > 1:
            return value.transpose(axis, axis - 1)
        case 5 if value.dim() and value.shape[axis]:
            return value.narrow(axis, 0, 1).expand_as(value)
        case 6:
            return value.to(rng.choice((torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.complex64)))
        case 7:
            return value.flatten()
        case 8 if value.dim():
            return torch.cat((value, value), axis).unflatten(axis, (-1, 2)).select(axis + 1, 0)
        case 9 if value.numel():
            flat = value.clone(memory_format=torch.contiguous_format).flatten()
            odd = rng.choice(ODD_FLOATS) if value.is_floating_point() else rng.choice(ODD) % 256
            if not value.is_floating_point() and value.dtype == torch.int64:
                odd = rng.choice(ODD)
            flat[rng.randrange(len(flat))] = odd
            return flat.view(value.shape)
        case 10:
            return value.to("meta")
        case 11:
            return None
    return value
