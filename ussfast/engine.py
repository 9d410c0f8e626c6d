"""Running one model on windows of audio: device, dtype, backend, silence, channels."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ussfast.errors import DeviceError, OutOfMemoryError
from ussfast.models import SpectralModel
from ussfast.models._packed import prepare
from ussfast.ops import use_reference
from ussfast.segments import Groups, align_channels

BACKENDS = ("native", "reference")
# Names for users -> precision of the matrix products.
DTYPES = {"float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16", "int8": "int8"}
# A standard deviation below a quarter of a 24-bit step: nothing to hear, and levels by division would explode.
SILENCE = 2.0**-25


def pick_device(name: str) -> torch.device:
    """The device of that name, "auto" being the best there is; DeviceError when this machine does not have it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        why = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise DeviceError(f"device {name!r} is not available: this machine (or this torch) has {why}; use cpu")
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    if name != "auto" and name not in DTYPES:
        raise DeviceError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {name!r}")
    if name == "int8" and device.type != "cpu":
        raise DeviceError(f"dtype int8 is for the CPU; on {device} use bf16")
    return DTYPES.get(name, "float32")


def pick_backend(name: str) -> str:
    if name != "auto" and name not in BACKENDS:
        raise DeviceError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {name!r}")
    return "native" if name == "auto" else name


class Engine:
    """A model on its device, run window by window.

    Args:
        device, dtype, backend: names; "auto" takes the best that this machine has (float32, native kernels).
            The model is moved and prepared for them: its weights are packed here, once.
    """

    def __init__(self, model: SpectralModel, device: str, dtype: str, backend: str):
        self.device, self.backend = pick_device(device), pick_backend(backend)
        self.precision = pick_precision(dtype, self.device)
        # On a GPU, PyTorch itself chooses what is safe in bfloat16; the CPU kernels have precisions of their own.
        self.autocast = self.device.type != "cpu" and self.precision == "bfloat16"
        with _memory(self.device):
            self.model = model.to(self.device).eval()
            prepare(self.model, "float32" if self.autocast else self.precision, pack=self.backend == "native")

    def run(self, audio: np.ndarray, prompts: torch.Tensor | None, sources: int, groups: Groups) -> np.ndarray:
        """One window: float32 [channels, samples] -> [sources, channels, samples]; silent channels give silence.

        Raises:
            OutOfMemoryError: the window does not fit.
        """
        out = np.zeros((sources, *audio.shape), np.float32)
        # In float64: rounded to float32, the mean of a constant is not that constant.
        loud = np.flatnonzero(audio.std(1, dtype=np.float64) > SILENCE)
        if len(loud):
            with _memory(self.device), torch.inference_mode(), use_reference(self.backend == "reference"):
                mixture = torch.from_numpy(np.ascontiguousarray(audio[loud])).to(self.device)
                stems = self.model.separate(mixture, prompts, self.autocast)
                out[:, loud] = stems.transpose(0, 1).float().cpu().numpy()
            # Only loud channels can tell which source is which.
            out[:, loud] = align_channels(out[:, loud], groups)
        return out


@contextmanager
def _memory(device: torch.device) -> Iterator[None]:
    """Turns every way in which memory runs out into OutOfMemoryError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(device) from error
    except RuntimeError as error:
        # The CPU allocator has no exception type of its own.
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise _out_of_memory(device) from error
        raise


def _out_of_memory(device: torch.device) -> OutOfMemoryError:
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
    return OutOfMemoryError(f"out of memory on {device}: use a shorter segment")
