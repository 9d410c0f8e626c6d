"""CUDA graphs: what was launched kernel by kernel is launched as a whole from the third time on.

A graph repeats kernels on the memory that they had when it was recorded. So there is one per kind and shape of work,
with inputs and outputs of its own, and work must be a function of tensors on the device: no Python decision that
depends on their values, nothing from the host.
"""

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.engine.nested import copied, tensors_of
from ussfast.ops._op import records_ops

T = TypeVar("T")
Key = tuple[Hashable, ...]
MOST = 16  # graphs that are kept: each has its inputs and outputs in memory
_SEEN = 256  # keys that are remembered to have run once


def why_not(device: torch.device | None = None) -> str | None:
    """Why there are no graphs on this device, or on none of this machine; None where there are."""
    if os.environ.get("USSFAST_GRAPHS") == "0":
        return "USSFAST_GRAPHS=0"
    if not torch.cuda.is_available():
        return "no CUDA device" if torch.version.cuda else "this torch is built without CUDA"
    return None if device is None or device.type == "cuda" else f"the device is {device}"


class Recorder(Protocol):
    """What a device can do; `CudaRecorder`, or a stand-in for tests."""

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Notes what `work` launches, and runs none of it.

        Returns:
            the tensors that will have its results, and what runs it, each time into the same tensors.
        Raises:
            RuntimeError: it cannot be recorded, or memory lacks (then torch.OutOfMemoryError, perhaps as its context).
        """

    def release(self) -> None:
        """Hands back memory of graphs that are gone."""


class CudaRecorder:
    """One capture stream and one pool of memory for all graphs of an engine, which run one after the other."""

    _one_at_a_time = threading.Lock()  # PyTorch cannot record two graphs at once, of whatever engine

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)
        self._warm = threading.local()
        self.pool = torch.cuda.graph_pool_handle()
        self._anchor: torch.cuda.CUDAGraph | None = None

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        with self._one_at_a_time, torch.cuda.device(self.device):
            self._warm_up()
            if self._anchor is None:  # a pool whose last graph has gone takes no other
                self._anchor = self._capture(lambda: torch.zeros(1, device=self.device))[1]
            out, graph = self._capture(work)
        return out, graph.replay

    def _warm_up(self) -> None:
        """Handles of cuBLAS and cuDNN belong to threads: who records must have them, whoever ran the work before."""
        if not hasattr(self._warm, "done"):
            x = torch.ones(8, 8, device=self.device)
            F.conv2d((x @ x)[None, None], x[None, None])
            self._warm.done = True

    def _capture(self, work: Callable[[], T]) -> tuple[T, torch.cuda.CUDAGraph]:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads may copy and allocate meanwhile: their calls must not spoil the recording.
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                out = work()
        finally:
            torch.cuda.set_stream(before)  # which a capture that fails does not do
        return out, graph

    def release(self) -> None:
        # Memory of a pool comes back only when all of its graphs are gone.
        self.pool, self._anchor = torch.cuda.graph_pool_handle(), None
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class _Graph:
    """inputs: by the names of `tensors_of`. out: nested tensors that `replay` writes to."""

    inputs: dict[str, Tensor]
    out: Any
    replay: Callable[[], None]

    def run(self, inputs: dict[str, Tensor]) -> Any:
        for kind in {tensor.dtype for tensor in self.inputs.values()}:  # few launches, however many tensors
            names = [name for name, tensor in self.inputs.items() if tensor.dtype == kind]
            torch._foreach_copy_([self.inputs[name] for name in names], [inputs[name] for name in names])
        self.replay()
        return copied(self.out)  # the next run writes to the same memory


class _Family:
    """Graphs that share a recorder; one thread at a time may launch their work."""

    def __init__(self) -> None:
        self.lock, self.members = threading.RLock(), WeakSet["Graphs"]()


class Graphs:
    """Runs work through graphs, each made when its key comes a second time.

    The first time is eager: it loads kernels, makes FFT plans and measures tiles, all of which a recording forbids.
    The least recently used of more than `most` graphs goes. Where a recording fails, that key stays eager. Several
    threads may run work; they take turns.

    Args:
        recorder: None runs everything eagerly, without a lock.
    Attributes:
        reasons: of keys that stay eager.
    """

    def __init__(self, recorder: Recorder | None, most: int = MOST, family: _Family | None = None):
        self._recorder, self._most = recorder, most
        self._family = family or _Family()
        with self._family.lock:
            self._family.members.add(self)
        self._graphs: OrderedDict[Key, _Graph] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self.reasons: dict[Key, str] = {}

    @property
    def on(self) -> bool:
        return self._recorder is not None

    def __len__(self) -> int:
        return len(self._graphs)

    def another(self) -> "Graphs":
        """For work on state that it changes in place: with keys of its own, the same recorder, and turns with these."""
        return Graphs(self._recorder, self._most, self._family)

    def run(self, what: Hashable, work: Callable[..., T], *inputs: Any) -> T:
        """work(*inputs).

        Args:
            what: kind of work, always with the same function and whatever else it depends on.
            inputs: tensors on the device, or None, or dataclasses and tuples of them; work must not change them.
        Returns:
            what work returns, nested in the same way and in memory that nothing else writes to.
        """
        if self._recorder is None or records_ops():  # an op that is timed waits for the device
            return work(*inputs)
        named = tensors_of(inputs)
        key = (what, *((name, tuple(tensor.shape), tensor.dtype) for name, tensor in named.items()))
        with self._family.lock:
            graph = self._graphs.get(key) or self._record(key, work, inputs)
            if graph is None:
                return work(*inputs)
            self._graphs.move_to_end(key)
            return graph.run(named)

    def _record(self, key: Key, work: Callable[..., Any], inputs: tuple[Any, ...]) -> _Graph | None:
        """The graph of a key; None if it is to be eager this time."""
        assert self._recorder is not None
        if key in self.reasons:
            return None
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > _SEEN:
                self._seen.popitem(last=False)
            return None
        try:
            static = copied(inputs)
            out, replay = self._recorder.record(partial(work, *static))
        except RuntimeError as error:
            self._give_up(key, error)
            return None
        self._graphs[key] = _Graph(tensors_of(static), out, replay)
        if len(self._graphs) > self._most:
            oldest, _ = self._graphs.popitem(last=False)
            self._seen.pop(oldest, None)  # what is rare is not recorded at once when it comes back
        return self._graphs[key]

    def _give_up(self, key: Key, error: RuntimeError) -> None:
        if any(isinstance(e, torch.OutOfMemoryError) for e in (error, error.__context__, error.__cause__)):
            self.clear()
            self.reasons[key] = "out of memory"
        else:
            self.reasons[key] = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(f"no CUDA graph for {key[0]}, which runs without: {self.reasons[key]}", RuntimeWarning, 4)

    def clear(self) -> None:
        """Drops the graphs of the whole family, for their memory; those in use are made again."""
        if self._recorder is None:
            return
        with self._family.lock:
            for member in self._family.members:
                member._graphs.clear()
            self._recorder.release()

    def forget(self) -> None:
        """Drops these graphs: the state that their work changes has moved."""
        with self._family.lock:
            self._graphs.clear()


def graphs_for(device: torch.device) -> Graphs:
    """CUDA graphs, or eager runs where there are none."""
    return Graphs(None if why_not(device) else CudaRecorder(device))


def bucket(count: int) -> int:
    """The next power of two: items of a batch are filled up to it, so that few graphs serve all counts."""
    return 1 << max(0, count - 1).bit_length()
