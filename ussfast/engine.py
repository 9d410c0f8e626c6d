"""Running one model on windows of audio: device, dtype, backend, silence, channels."""

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
import torch

from ussfast.errors import DeviceError, InputError, OutOfMemoryError
from ussfast.models import SpectralModel
from ussfast.models._packed import prepare
from ussfast.models.causal_chunks import CausalChunks
from ussfast.models.causal_native import condition, supported
from ussfast.models.causal_tuss import CausalTuss, Conditioning
from ussfast.ops import use_reference
from ussfast.segments import Groups, align_channels

BACKENDS = ("native", "reference")
# Names for users -> precision of the matrix products.
DTYPES = {"float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16", "int8": "int8"}
# A standard deviation below a quarter of a 24-bit step: nothing to hear, and levels by division would explode.
SILENCE = 2.0**-25
KEPT_CONDITIONINGS = 32


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
        self._known: dict[bytes, Conditioning] = {}
        self._knowing = Lock()
        with self.computing():  # asked once: it looks at every parameter
            self._native = self.causal is not None and supported(self.causal)

    @property
    def causal(self) -> CausalTuss | None:
        """The model, if it can carry on from chunk to chunk."""
        return self.model if isinstance(self.model, CausalTuss) and self.model.config.causal else None

    def condition(self, prompts: torch.Tensor) -> Conditioning:
        """What a causal model computes from prompt vectors [sources, dim]: once, for every stream and file."""
        assert self.causal is not None
        key = prompts.numpy(force=True).tobytes()
        with self._knowing:
            known = self._known.pop(key, None)
            if known is None:
                with self.computing():
                    here = prompts.to(self.device)
                    known = condition(self.causal, here) if self._native else self.causal.condition(here)
            self._known[key] = known  # the newest are last
            if len(self._known) > KEPT_CONDITIONINGS:
                self._known.pop(next(iter(self._known)))
        return known

    def carry_on(
        self, blocks: Iterable[np.ndarray], prompts: torch.Tensor, seconds: float, shared: bool
    ) -> Iterator[np.ndarray]:
        """Blocks [channels, n] at the model's rate through a causal model -> [sources, channels, m], as many samples.

        Args:
            prompts: vectors [sources, dim].
            seconds: that the model computes at once, for memory's sake; results do not depend on it.
            shared: channels get the same masks, see `CausalChunks`.
        """
        assert self.causal is not None
        config = self.causal.config
        frames = max(1, round(seconds * config.sample_rate / config.stft.hop))
        chunks = CausalChunks(self.causal, self.condition(prompts), frames, shared, self.autocast)
        for block in blocks:
            with self.computing():
                out = chunks.push(torch.from_numpy(np.ascontiguousarray(block)).to(self.device)).cpu().numpy()
            if out.size:
                yield out.swapaxes(0, 1)
        if chunks.taken:
            with self.computing():
                out = chunks.flush().cpu().numpy()
            yield out.swapaxes(0, 1)

    @contextmanager
    def computing(self, threads: int | None = None) -> Iterator[None]:
        """No gradients, this engine's kernels, so many threads, and lack of memory as OutOfMemoryError."""
        before = torch.get_num_threads()
        with _memory(self.device), torch.inference_mode(), use_reference(self.backend == "reference"):
            if threads not in (None, before):
                torch.set_num_threads(threads)
            try:
                yield
            finally:
                if threads not in (None, before):
                    torch.set_num_threads(before)

    def check_channels(self, count: int) -> None:
        """InputError for a number of channels that the model cannot take."""
        if count not in (1, self.model.channels) and self.model.channels > 1:
            raise InputError(
                f"this model separates {self.model.channels} channels together: give it audio of "
                f"{self.model.channels} channels or of 1, not of {count}"
            )

    def run(self, audio: np.ndarray, prompts: torch.Tensor | None, sources: int, groups: Groups) -> np.ndarray:
        """One window: float32 [channels, samples] -> [sources, channels, samples]; silent channels give silence.

        A model of several channels takes all of them as one item, which is silent if all are; to it, mono is the same
        in every channel, and the mean of what comes out.

        Raises:
            OutOfMemoryError: the window does not fit.
            InputError: see `check_channels`.
        """
        out = np.zeros((sources, *audio.shape), np.float32)
        # In float64: rounded to float32, the mean of a constant is not that constant.
        loud = np.flatnonzero(audio.std(1, dtype=np.float64) > SILENCE)
        if self.model.channels > 1:
            self.check_channels(len(audio))
            if len(loud):
                stems = self._separate(np.broadcast_to(audio, (self.model.channels, audio.shape[1]))[None], prompts)[0]
                out[:] = stems if len(audio) > 1 else stems.mean(1, keepdims=True)
        elif len(loud):
            # Only loud channels can tell which source is which.
            out[:, loud] = align_channels(self._separate(audio[loud], prompts).swapaxes(0, 1), groups)
        return out

    def _separate(self, items: np.ndarray, prompts: torch.Tensor | None) -> np.ndarray:
        """[items, (channels,) samples] -> [items, sources, (channels,) samples]."""
        with self.computing():
            mixture = torch.from_numpy(np.array(items, np.float32)).to(self.device)
            return self.model.separate(mixture, prompts, self.autocast).float().cpu().numpy()


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
