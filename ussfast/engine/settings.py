"""What a user chooses about how a model runs, and the names for it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import torch

from ussfast.audio.remix import Remix
from ussfast.errors import DeviceError, InputError
from ussfast.long_audio.policy import SegmentPolicy, default_policy
from ussfast.values import flag, number, one_of, shown, whole

BACKENDS = ("native", "reference", "onnx", "trt", "aoti")
CHANNELS = ("linked", "independent")
# Names for users -> precision of the matrix products.
DTYPES = {"float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16", "int8": "int8"}
GPU_BATCH = 8
MOST_BATCH = 256
LEAST_SEGMENT_SECONDS = 0.01
MOST_ATTENUATION = 1000.0  # dB


@dataclass(frozen=True)
class Settings:
    """How a model runs and how audio is cut for it; None and "auto" leave the choice to us.

    device: "auto", "cpu", "cuda" or "cuda:N".
    dtype: "auto" (float32; streams of causal models on the CPU: bfloat16 where it has such products), "float32",
        "bfloat16" ("bf16") or, on the CPU and not for causal models, "int8": of the network's large matrix products;
        see docs/cpu.md, docs/causal.md and docs/gpu.md.
    backend: "auto" or "native" (our kernels where they are built), "reference" (plain PyTorch), or, for a directory of
        `ussfast.export`: "onnx" (onnxruntime), "trt" (TensorRT), "aoti" (AOTInductor). "auto" tells by the directory.
    segment: window for long audio in seconds; by default what the model was trained on, at least 6 s. Causal models
        carry on from one window to the next: for them it is only a question of memory.
    overlap: shared by neighbouring windows, in seconds; by default 2.1 s, or 0.4 of a short segment.
    stitch: "fade", or "published" for the plain averages of the TUSS and SFC scripts.
    look_ahead: right-hand context of the windows in seconds, the windows of live audio (docs/streaming-windows.md); by
        default as much context on the right as on the left.
    batch: windows that are computed together at most, those of other threads included; by default 8 on a GPU (fewer
        once so many do not fit) and 1 on the CPU. Results do not depend on it but for rounding.
    max_attenuation: in dB, at least 0: nothing is pushed further down than that in any stem, which becomes stem +
        10^(-max_attenuation / 20) * (mixture - stem). By default there is no limit.
    sum_to_mixture: these prompts are all there is: what no stem took is shared out equally, so that stems add up to
        the mixture. With max_attenuation they still do, and the limit is 20 * log10(stems) dB at least.
    channels: "independent": each channel gets masks of its own; "linked": all channels get the same ones, made of what
        they have together; see docs/stems.md. Models that separate several channels together always do.
    Raises:
        InputError: a batch that is no whole number from 1 to 256, other channels, a max_attenuation that is no number
            from 0 to 1000, a sum_to_mixture that is not True or False. What else is wrong is told where it is used: see
            `policy`, `pick_device`.
    """

    device: str = "auto"
    dtype: str = "auto"
    backend: str = "auto"
    segment: float | None = None
    overlap: float | None = None
    stitch: Literal["fade", "published"] = "fade"
    look_ahead: float | None = None
    batch: int | None = None
    max_attenuation: float | None = None
    sum_to_mixture: bool = False
    channels: Literal["linked", "independent"] = "independent"

    def __post_init__(self) -> None:
        keep = partial(object.__setattr__, self)
        if self.batch is not None:
            keep("batch", whole(self.batch, "batch", 1, MOST_BATCH))
        if self.max_attenuation is not None:
            keep("max_attenuation", number(self.max_attenuation, "max_attenuation", 0, MOST_ATTENUATION, "dB"))
        keep("sum_to_mixture", flag(self.sum_to_mixture, "sum_to_mixture"))
        one_of(self.channels, "channels", CHANNELS)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Settings":
        """Those that are given, by name; InputError for names that there are not."""
        names = [field.name for field in fields(cls)]
        if unknown := sorted(given.keys() - set(names)):
            raise InputError(f"unknown settings {', '.join(unknown)}; there are {', '.join(names)}")
        return cls(**given)

    def policy(self, trained: float) -> SegmentPolicy:
        """Windows for a model that was trained on `trained` seconds."""
        policy = default_policy(trained, self.segment, self.overlap, self.stitch, self.look_ahead)
        if policy.segment < LEAST_SEGMENT_SECONDS:  # models see nothing but silence in a sample or two
            raise InputError(f"segment must be at least {LEAST_SEGMENT_SECONDS:g} s, got {policy.segment:g} s")
        return policy

    @property
    def remix(self) -> Remix:
        """What is done to stems where they meet their mixture."""
        limit = self.max_attenuation
        return Remix(self.sum_to_mixture, 0.0 if limit is None else 10 ** (-limit / 20))


def pick_device(name: str) -> torch.device:
    """The device of that name, "auto" being the best there is; DeviceError when this machine does not have it."""
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        raise DeviceError(f"unknown device {shown(name)}; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        why = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise DeviceError(f"device {name!r} is not available: this machine (or this torch) has {why}; use cpu")
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    if not isinstance(name, str) or name not in ("auto", *DTYPES):
        raise DeviceError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {shown(name)}")
    if name == "int8" and device.type != "cpu":
        raise DeviceError(f"dtype int8 is for the CPU; on {device} use bf16")
    return DTYPES.get(name, "float32")


def pick_backend(name: str) -> str:
    if not isinstance(name, str) or name not in ("auto", *BACKENDS):
        raise DeviceError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {shown(name)}")
    return "native" if name == "auto" else name
