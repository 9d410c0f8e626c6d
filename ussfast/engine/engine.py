"""Running one model: blocks of audio in, blocks of its sources out, whatever kind of model it is."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from ussfast.engine import forks
from ussfast.engine.advancing import Advancing
from ussfast.engine.backends import EXPORTED
from ussfast.engine.backends.networks import Exportedly
from ussfast.engine.batching import Batches, Ticket
from ussfast.engine.carrying import Chunks, carried_on
from ussfast.engine.chunks import CausalChunks
from ussfast.engine.conditionings import Conditionings
from ussfast.engine.copies import transfer_for
from ussfast.engine.graphs import Graphs, bucket, graphs_for
from ussfast.engine.lack import out_of_memory
from ussfast.engine.levels import bearable, loud_channels
from ussfast.engine.recurrent_chunks import RecurrentChunks
from ussfast.engine.settings import GPU_BATCH, Settings, pick_backend, pick_device, pick_precision
from ussfast.errors import DeviceError, InputError, OutOfMemoryError
from ussfast.long_audio.alignment import Groups, align_channels
from ussfast.long_audio.policy import SegmentPolicy
from ussfast.long_audio.windows import Batch, separate_blocks
from ussfast.models import SpectralModel
from ussfast.models._base import Conditioning
from ussfast.models._packed import prepare
from ussfast.models.asp_unet import AspUnet
from ussfast.models.causal import CausalModel, Modulation
from ussfast.models.causal.step import fastest
from ussfast.models.chimera import Chimera
from ussfast.ops import use_reference
from ussfast.prompts.bank import Plan

T = TypeVar("T")

ITEMS = 2  # channels of a window that are computed together: more of them would need more memory than stereo
KEEPS = 24  # channels whose states, and conversions of the rate, need as much memory as a piece is computed in


class Engine:
    """A model on its device.

    Args:
        settings: device, dtype and backend; the model is moved and prepared for them, its weights are packed here,
            once. Windows: `policy` is what audio is cut by. `remix` is for those who bring stems to their mixture.
    Raises:
        DeviceError, InputError: settings that this machine, or this model, cannot have.
    """

    def __init__(self, model: SpectralModel, settings: Settings):
        self.policy = settings.policy(model.config.segment_seconds)
        if isinstance(model, Exportedly):
            self.device, self.backend = model.device, model.backend
        else:
            self.device, self.backend = pick_device(settings.device), pick_backend(settings.backend)
        self.precision = pick_precision(settings.dtype, self.device)
        if isinstance(model, CausalModel) and self.precision == "int8":
            raise DeviceError("dtype int8 is not for the causal model: use auto, float32 or bf16")
        self.linked, self.remix = settings.channels == "linked", settings.remix
        if self.linked and model.channels == 1 and not model.masking:
            raise InputError("this model makes spectra, not masks, so that channels cannot share them: use independent")
        self.stream_precision = "bfloat16" if settings.dtype == "auto" else self.precision
        # Our ops have precisions of their own, residual streams in float32. On a GPU, PyTorch chooses what else is safe
        # in bfloat16: everything where plain PyTorch is asked for.
        self.autocast = self.device.type != "cpu" and self.precision == "bfloat16"
        plain = self.autocast and self.backend == "reference"
        eager = self.backend in EXPORTED or not model.recordable
        self.graphs = Graphs(None) if eager else graphs_for(self.device)
        self.transfer = transfer_for(self.device)
        self.batch = settings.batch or (1 if self.device.type == "cpu" else GPU_BATCH)
        self.rows = ITEMS * self.batch  # channels that are computed at once
        forks.compute(self.device)
        with out_of_memory(self.device):
            self.model = model.to(self.device).eval()
            prepare(self.model, "float32" if plain else self.precision, pack=self.backend == "native")
            if self.causal is not None and self.device.type == "cpu":
                self.causal.use_precision(fastest(self.causal, self.precision))
        self._conditionings = Conditionings()
        self.after_fork()
        forks.remember(self)

    def after_fork(self) -> None:
        """What threads share, as if there were none yet."""
        causal = self.causal
        self._advancing = None if causal is None else Advancing(causal, self.graphs, self.autocast, self.batch)
        self._batches = Batches(self._begin, self.batch) if self.batch > 1 and causal is None else None
        self._conditionings.after_fork()

    @property
    def causal(self) -> CausalModel | None:
        """The model, if it can carry on from chunk to chunk."""
        return self.model if isinstance(self.model, CausalModel) else None

    def condition(self, prompts: torch.Tensor) -> Modulation:
        """What a causal model computes from prompt vectors [sources, dim]: once, for every stream and file."""
        assert self.causal is not None
        compute = self.causal.condition
        return self._conditionings.of(prompts, lambda vectors: self._computed(compute, vectors))

    def ask(self, prompts: torch.Tensor | None) -> torch.Tensor | None:
        """What `run` wants for prompt vectors [sources, dim]: of models with `condition` a row of what it computes for
        each, once for every stream and file; else the vectors."""
        model = self.model
        if prompts is None or not isinstance(model, AspUnet):
            return prompts
        return self._conditionings.of(prompts, lambda vectors: self._computed(model.condition, vectors)).rows

    def _computed(self, compute: Callable[[torch.Tensor], T], vectors: torch.Tensor) -> T:
        with self.computing():
            return compute(vectors.to(self.device))

    def separate(self, blocks: Iterable[np.ndarray], plan: Plan, policy: SegmentPolicy) -> Iterator[np.ndarray]:
        """Blocks [channels, n] at the model's rate -> [sources, channels, m], gap-free, as many samples in all.

        A causal model carries on from block to block, as does a recurrent one of one direction; of others, windows are
        cut by `policy` and joined.

        Raises:
            OutOfMemoryError: what is computed at once does not fit; see `attempt`.
            InputError: see `check_channels` and `bearable`.
        """
        blocks = map(bearable, blocks)
        if begin := self._begins(plan):
            return carried_on(self, blocks, begin, policy.segment)
        asked = self.ask(plan.vectors), len(plan.labels), plan.groups

        def run(window: np.ndarray) -> np.ndarray:
            return self.run(window, *asked)

        batch = Batch(self.batch, lambda windows: self.run_many(windows, *asked)) if self.batch > 1 else None
        return separate_blocks(blocks, run, self.model.config.sample_rate, policy, plan.groups, batch)

    def attempt(self, work: Callable[[SegmentPolicy], T]) -> T:
        """`work` with the engine's policy, and again with a shorter segment where memory does not suffice.

        Raises:
            OutOfMemoryError: the second time.
        """
        with suppress(OutOfMemoryError), self.present():  # ends here, so that the failed attempt's tensors are gone
            return work(self.policy)
        shorter = self.policy.shorter()
        try:
            with self.present():
                return work(shorter)
        except OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"out of memory on {self.device}, also with a segment of {shorter.segment:g} s: "
                "use a shorter segment, fewer prompts or a smaller model"
            ) from error

    def _begins(self, plan: Plan) -> Callable[[int], Chunks] | None:
        """What makes the model carry on from block to block, so many frames at once; None for one that sees windows."""
        # Channels of sources that can be told apart in each of them only get the same masks.
        shared = self.linked or bool(plan.groups)
        if (advance := self._advancing) is not None and plan.vectors is not None:
            asked = self.condition(plan.vectors)
            return lambda frames: CausalChunks(advance, asked, frames, shared)
        if isinstance(self.model, Chimera) and self.model.carries_on:
            return partial(RecurrentChunks, self.model, shared=shared, autocast=self.autocast)
        return None

    @contextmanager
    def computing(self, threads: int | None = None) -> Iterator[None]:
        """No gradients, this engine's kernels, so many threads, and lack of memory as OutOfMemoryError."""
        before, threads = torch.get_num_threads(), forks.compute(self.device, threads)
        try:
            with out_of_memory(self.device), torch.inference_mode(), use_reference(self.backend == "reference"):
                if threads not in (None, before):
                    torch.set_num_threads(threads)
                try:
                    yield
                finally:
                    if threads not in (None, before):
                        torch.set_num_threads(before)
        except OutOfMemoryError:
            self.graphs.clear()  # their memory may be what lacks
            raise

    def present(self) -> AbstractContextManager[None]:
        """Inside, this thread brings windows again and again: those of other threads may wait a little for them."""
        together = self._advancing or self._batches
        return nullcontext() if together is None else together.present()

    def share(self, channels: int) -> float:
        """Of what is computed at once, 1 or less, for channels that need no more memory than stereo then; what each has
        to keep for itself is made up for by yet shorter pieces."""
        return min(1.0, self.rows / channels / (1 + max(0, channels - self.rows) / KEEPS))

    def together(self, channels: int, plan: Plan) -> int:
        """How many of these have to be separated together, or may be without more memory than stereo needs."""
        apart = self.model.channels == 1 and not self.linked and not plan.groups
        return min(channels, self.rows) if apart else channels

    def check_channels(self, count: int) -> None:
        """InputError for a number of channels that the model cannot take."""
        if count not in (1, self.model.channels) and self.model.channels > 1:
            raise InputError(
                f"this model separates {self.model.channels} channels together: give it audio of "
                f"{self.model.channels} channels or of 1, not of {count}"
            )

    def run(self, audio: np.ndarray, prompts: torch.Tensor | None, sources: int, groups: Groups) -> np.ndarray:
        """One window: float32 [channels, samples] -> [sources, channels, samples]; silent channels give silence.

        prompts: what `ask` made of the vectors.

        A model of several channels takes all of them as one item, which is silent if all are; to it, mono is the same
        in every channel, and the mean of what comes out. Linked channels are one item, too, without those that are
        silent.

        Raises:
            OutOfMemoryError: the window does not fit.
            InputError: see `check_channels`.
        """
        return self.run_many([audio], prompts, sources, groups)[0]

    def run_many(
        self, windows: list[np.ndarray], prompts: torch.Tensor | None, sources: int, groups: Groups
    ) -> list[np.ndarray]:
        """`run` of several windows, which may differ in length; those that do not are computed together."""
        items = [self._items(window) for window in windows]
        tickets = [Ticket(some, prompts) for parts in items for some in parts]
        # One by one as they are needed, where nothing is gained by having them all.
        stems = map(self._alone, tickets) if self._batches is None else iter(self._batches.run(tickets))
        return [
            self._whole(window, islice(stems, len(parts)), sources, groups)
            for window, parts in zip(windows, items, strict=True)
        ]

    def _items(self, audio: np.ndarray) -> list[np.ndarray]:
        """What the model is to separate of a window, a few [items, (channels,) samples] at a time, without what is
        silent."""
        loud = loud_channels(audio)
        if self.model.channels == 1:
            if self.linked and len(loud) > 1:
                return [audio[loud][None]]
            return [audio[loud[first : first + ITEMS]] for first in range(0, len(loud), ITEMS)]
        self.check_channels(len(audio))
        whole = np.broadcast_to(audio, (self.model.channels, audio.shape[1]))[None]
        return [whole] if len(loud) else []

    def _whole(self, audio: np.ndarray, parts: Iterable[np.ndarray], sources: int, groups: Groups) -> np.ndarray:
        """[sources, channels, samples] of a window, from what came of its items."""
        out, loud, done = np.zeros((sources, *audio.shape), np.float32), loud_channels(audio), 0
        for stems in parts:
            if self.model.channels == 1 and stems.ndim == 4:
                out[:, loud] = stems[0]
            elif self.model.channels > 1:
                out[:] = stems[0] if len(audio) > 1 else stems[0].mean(1, keepdims=True)
            else:
                out[:, loud[done : done + len(stems)]] = stems.swapaxes(0, 1)
                done += len(stems)
        if done and groups:
            # Only loud channels can tell which source is which.
            out[:, loud] = align_channels(out[:, loud], groups)
        return out

    def _alone(self, ticket: Ticket) -> np.ndarray:
        return self._begin(ticket.items, ticket.prompts)()

    def _begin(self, items: np.ndarray, prompts: torch.Tensor | None) -> Callable[[], np.ndarray]:
        """[items, (channels,) samples] -> what waits for [items, sources, (channels,) samples].

        prompts: [sources, dim] or [items, sources, dim]. Their number and that of samples cannot be rounded up as that
        of items is: norms of the band split and of TF-Locoformer span all frames, and prompts attend to one another.
        """
        with self.computing():
            mixture = self.transfer.up(items)
            if self.graphs.on:
                mixture = _filled(mixture, bucket(len(items)))
                prompts = prompts if prompts is None or prompts.dim() == 2 else _filled(prompts, len(mixture))
            out = self.graphs.run("separate", self._separate, mixture, prompts)
            return self.transfer.down(out[: len(items)])

    def _separate(self, mixture: torch.Tensor, prompts: torch.Tensor | None) -> torch.Tensor:
        asked = Conditioning(prompts) if prompts is not None and isinstance(self.model, AspUnet) else prompts
        return self.model.separate(mixture, asked, self.autocast)


def _filled(rows: torch.Tensor, count: int) -> torch.Tensor:
    """So many rows, the last one repeated: zeros have no level to be divided by."""
    more = count - len(rows)
    return torch.cat((rows, rows[-1:].expand(more, *rows.shape[1:]))) if more else rows
