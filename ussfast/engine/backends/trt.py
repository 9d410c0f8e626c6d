"""Runs the graphs of an export as TensorRT engines, on torch's tensors where they are."""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ussfast.checkpoints.exported import GraphFile, graph_path, read_exported
from ussfast.engine.backends._sizes import check_sizes
from ussfast.engine.backends.trt_engines import (
    EngineKey,
    fingerprint,
    logger_of,
    read_engine,
    started,
    tensorrt,
    told,
)
from ussfast.errors import CheckpointError, DeviceError, UssfastError

# Of a tensor without elements torch has no address, and TensorRT takes none that is null.
_NOTHING_BYTES = 256


class Cuda:
    """A GPU, and a stream of it for the engines: TensorRT waits for the whole GPU around work in the default stream."""

    def __init__(self, device: str | torch.device = "cuda"):
        if not torch.cuda.is_available():
            raise DeviceError("TensorRT engines need an NVIDIA GPU: this machine (or this torch) has no CUDA device")
        wanted = torch.device(device)
        if wanted.type != "cuda":
            raise DeviceError(f"TensorRT engines run on cuda or cuda:N, not on {device}")
        index = torch.cuda.current_device() if wanted.index is None else wanted.index
        if index >= torch.cuda.device_count():
            raise DeviceError(f"device cuda:{index} is not available: there are {torch.cuda.device_count()}")
        self.device = torch.device("cuda", index)
        self.name = torch.cuda.get_device_name(self.device)
        self.capability = "{}.{}".format(*torch.cuda.get_device_capability(self.device))
        self._stream = torch.cuda.Stream(self.device)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The GPU that a thread's CUDA calls are for; TensorRT asks for it."""
        with torch.cuda.device(self.device):
            yield

    def finish(self) -> None:
        """Waits for all work of the GPU."""
        torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def queued(self, tensors: Iterable[Tensor]) -> Iterator[int]:
        """The handle of the stream, between what the caller's stream did before and what it does afterwards.

        tensors: what is read and written there; their memory is not given away before that is over.
        """
        callers = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(callers)
        yield self._stream.cuda_stream
        for tensor in tensors:
            tensor.record_stream(self._stream)
        callers.wait_stream(self._stream)


@dataclass
class _Loaded:
    """One engine in memory; engine: kept as long as its context."""

    about: GraphFile
    engine: Any
    context: Any
    inputs: dict[str, torch.dtype]
    outputs: dict[str, torch.dtype]
    lock: threading.Lock = field(default_factory=threading.Lock)


class TrtRunner:
    """The engines of an export directory that were built for this GPU and this TensorRT.

    Engines are loaded with their first use. May be used from several threads; runs of one graph come one by one.

    Args:
        directory: of `python -m ussfast.export --trt`, or one that `python -m ussfast.export.trt` made engines in.
        device: "cuda" or "cuda:N".
    Raises:
        DeviceError: no TensorRT, no such GPU, or (when a graph first runs) no engine for them.
        CheckpointError: no export, or an engine that is damaged.
    """

    def __init__(self, directory: str | os.PathLike[str], device: str | torch.device = "cuda"):
        self.directory, self.exported = Path(directory), read_exported(directory)
        if self.exported.kind != "onnx":
            raise CheckpointError(f"{directory}: packages of AOTInductor, not ONNX: use backend 'aoti'")
        self._trt = tensorrt()
        self._cuda = Cuda(device)
        self.device = self._cuda.device
        self._logger = logger_of(self._trt)
        self._runtime = started(self._trt.Runtime, self._logger)
        self._graphs: dict[str, _Loaded] = {}
        self._lock = threading.Lock()
        self._nothing = torch.empty(_NOTHING_BYTES, dtype=torch.uint8, device=self.device)

    def run(self, graph: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Runner`. Inputs may be on any device and of any floating dtype; outputs are where the inputs are.

        Raises:
            UssfastError: TensorRT failed.
        """
        loaded = self.load(graph)
        check_sizes(loaded.about, inputs)
        home = next(iter(inputs.values())).device
        with loaded.lock, self._cuda.active():
            given = {
                name: inputs[name].to(self.device, dtype).contiguous() for name, dtype in loaded.inputs.items()
            }  # fmt: skip
            for name, tensor in given.items():
                self._place_input(graph, loaded, name, tensor)
            outputs = self._outputs(graph, loaded)
            with self._cuda.queued((*given.values(), *outputs.values())) as stream:
                done = loaded.context.execute_async_v3(stream)
            if not done:
                raise UssfastError(f"{graph}: TensorRT could not run the engine{told(self._logger)}")
        return {name: tensor.to(home) for name, tensor in outputs.items()}

    def timed(self, graph: str, inputs: Mapping[str, Tensor], warm_up: int, runs: int) -> list[float]:
        """Milliseconds of each of some runs, from the call until the outputs are there."""
        times = []
        for _ in range(warm_up + runs):
            self._cuda.finish()
            begin = time.perf_counter()
            self.run(graph, inputs)
            self._cuda.finish()
            times.append((time.perf_counter() - begin) * 1e3)
        return times[warm_up:]

    def load(self, graph: str) -> _Loaded:
        """The engine, read when it is first asked for."""
        with self._lock:
            if graph not in self._graphs:
                self._graphs[graph] = self._read(graph)
            return self._graphs[graph]

    def _read(self, graph: str) -> _Loaded:
        about = self.exported.graph(graph)
        onnx = graph_path(self.directory, about)
        key = EngineKey(self._cuda.name, self._cuda.capability, self._trt.__version__, fingerprint(onnx))
        data = read_engine(onnx, key)
        with self._cuda.active():
            engine = self._runtime.deserialize_cuda_engine(data)
            context = engine and engine.create_execution_context()
        if context is None:
            raise CheckpointError(f"{onnx.parent}: TensorRT cannot load the engine of {onnx.name}{told(self._logger)}")
        trt = self._trt
        inputs: dict[str, torch.dtype] = {}
        outputs: dict[str, torch.dtype] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            kept = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
            kept[name] = _torch_dtype(trt, engine.get_tensor_dtype(name), f"{graph}: {name}")
        if lacking := inputs.keys() - {port.name for port in about.inputs}:
            raise CheckpointError(f"{onnx.parent}: the engine of {onnx.name} also takes {', '.join(sorted(lacking))}")
        return _Loaded(about, engine, context, inputs, outputs)

    def _place_input(self, graph: str, loaded: _Loaded, name: str, tensor: Tensor) -> None:
        shape, context = tuple(tensor.shape), loaded.context
        if not context.set_input_shape(name, shape) or not context.set_tensor_address(name, self._address(tensor)):
            least, _, most = map(list, loaded.engine.get_tensor_profile_shape(name, 0))
            built = f"the engine was built for {least} to {most}"
            raise UssfastError(f"{graph}: {name} is {list(shape)}, {built}{told(self._logger)}")

    def _outputs(self, graph: str, loaded: _Loaded) -> dict[str, Tensor]:
        if lacking := loaded.context.infer_shapes():
            raise UssfastError(f"{graph}: TensorRT asks for the shapes of {lacking}{told(self._logger)}")
        made = {}
        for name, dtype in loaded.outputs.items():
            shape = tuple(loaded.context.get_tensor_shape(name))
            if min(shape, default=0) < 0:
                raise UssfastError(f"{graph}: the size of {name} depends on values: {list(shape)}{told(self._logger)}")
            made[name] = torch.empty(shape, dtype=dtype, device=self.device)
            if not loaded.context.set_tensor_address(name, self._address(made[name])):
                raise UssfastError(f"{graph}: TensorRT does not take memory for {name}{told(self._logger)}")
        return made

    def _address(self, tensor: Tensor) -> int:
        return (tensor if tensor.numel() else self._nothing).data_ptr()


def _torch_dtype(trt: Any, dtype: Any, where: str) -> torch.dtype:
    kinds = trt.DataType
    known = {
        kinds.FLOAT: torch.float32, kinds.HALF: torch.float16, kinds.BF16: torch.bfloat16, kinds.INT32: torch.int32,
        kinds.INT64: torch.int64, kinds.INT8: torch.int8, kinds.UINT8: torch.uint8, kinds.BOOL: torch.bool,
    }  # fmt: skip
    if dtype not in known:
        raise UssfastError(f"{where} is of type {dtype}, which torch does not have")
    return known[dtype]
