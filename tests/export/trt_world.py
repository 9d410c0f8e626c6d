"""What TensorRT does, as far as tests need it, behind the stand-in's signatures.

Engines are ONNX files that onnxruntime runs, on addresses in the memory of the CPU.
"""

import contextlib
import ctypes
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from trt_stand_in import NEWEST, Behaviour, Dims, StandIn

MAGIC = b"stand-in plan"
TYPES = {onnx.TensorProto.FLOAT: ("FLOAT", np.float32), onnx.TensorProto.INT64: ("INT64", np.int64)}


class Machine:
    """The GPU of the stand-in: the CPU."""

    def __init__(self, device="cuda", name="NVIDIA Stand-in 1", capability="9.0"):
        self.device, self.name, self.capability = torch.device("cpu"), name, capability

    @contextlib.contextmanager
    def active(self):
        yield

    @contextlib.contextmanager
    def queued(self, tensors):
        assert all(tensor.is_contiguous() for tensor in tensors)
        yield 1234

    def finish(self):
        pass


class World:
    """A stand-in that builds and runs. refuse: what the parser says instead. phases: (name, parent, steps) of a build.

    scale: of the outputs, for engines that compute something else.
    """

    def __init__(self, version: str = NEWEST):
        self.refuse: list[tuple[str, str, str]] = []
        self.phases = [("Building", None, 2), ("Tactics", "Building", 3)]
        self.fails: str | None = None
        self.scale = 1.0
        self.on_step: Any = None
        self.memory: dict[bytes, Any] = {}
        self.trt = StandIn(version, self._behaviours())

    def _behaviours(self) -> dict[tuple[str, str], Behaviour]:
        cache = "IBuilderConfig"
        return {
            ("Builder", "__init__"): lambda this, logger: this.__dict__.update(their_logger=logger),
            ("Builder", "create_network"): lambda this, flags=0: self.trt.new("INetworkDefinition", flags_given=flags),
            ("Builder", "build_serialized_network"): self._build,
            ("IBuilderConfig", "add_optimization_profile"): self._add_profile,
            ("IOptimizationProfile", "set_shape"): self._set_shape,
            ("IBuilderConfig", "create_timing_cache"): lambda this, data: self.trt.new("ITimingCache", data=data),
            (cache, "set_timing_cache"): self._set_cache,
            (cache, "get_timing_cache"): lambda this: this.cache,
            ("ITimingCache", "combine"): self._combine,
            ("ITimingCache", "serialize"): lambda this: self._bytes(this.data),
            ("OnnxParser", "__init__"): lambda this, network, logger: this.__dict__.update(network=network),
            ("OnnxParser", "parse_from_file"): self._parse,
            ("OnnxParser", "num_errors"): lambda this: len(self.refuse),
            ("OnnxParser", "get_error"): lambda this, index: self.trt.new("ParserError", about=self.refuse[index]),
            ("ParserError", "node_operator"): lambda this: this.about[0],
            ("ParserError", "node_name"): lambda this: this.about[1],
            ("ParserError", "desc"): lambda this: this.about[2],
            ("INetworkDefinition", "num_inputs"): lambda this: len(this.inputs),
            ("INetworkDefinition", "get_input"): lambda this, index: this.inputs[index],
            ("Runtime", "__init__"): lambda this, logger: this.__dict__.update(their_logger=logger),
            ("Runtime", "deserialize_cuda_engine"): self._deserialize,
            ("ICudaEngine", "create_execution_context"): lambda this, *_: self.trt.new(
                "IExecutionContext", made_by=this, shapes={}, addresses={}
            ),
            ("ICudaEngine", "num_io_tensors"): lambda this: len(this.tensors),
            ("ICudaEngine", "get_tensor_name"): lambda this, index: list(this.tensors)[index],
            ("ICudaEngine", "get_tensor_mode"): lambda this, name: this.tensors[name][0],
            ("ICudaEngine", "get_tensor_dtype"): lambda this, name: this.tensors[name][1],
            ("ICudaEngine", "get_tensor_profile_shape"): lambda this, name, index: [
                Dims(shape) for shape in this.profile[name]
            ],
            ("IExecutionContext", "set_input_shape"): self._set_input_shape,
            ("IExecutionContext", "set_tensor_address"): self._set_address,
            ("IExecutionContext", "infer_shapes"): self._infer,
            ("IExecutionContext", "get_tensor_shape"): lambda this, name: Dims(this.made[name].shape),
            ("IExecutionContext", "execute_async_v3"): self._execute,
        }

    def _bytes(self, data: bytes) -> Any:
        held = self.trt.new("IHostMemory")
        type(held).__bytes__ = lambda this: this.data  # type: ignore[attr-defined]
        held.data = data
        return held

    def _parse(self, parser, path):
        assert Path(path).is_file()
        if self.refuse:
            return False
        graph = onnx.load(path, load_external_data=False).graph
        parser.network.path = path
        parser.network.inputs = []
        for value in graph.input:
            sizes = [size.dim_value or -1 for size in value.type.tensor_type.shape.dim]
            tensor = self.trt.new("ITensor")
            tensor.name, tensor.shape = value.name, Dims(sizes)
            parser.network.inputs.append(tensor)
        return True

    def _set_shape(self, profile, name, *shapes):
        assert len(shapes) == 3
        profile.__dict__.setdefault("shapes", {})[name] = shapes

    def _add_profile(self, config, profile):
        for least, usual, most in profile.shapes.values():
            if not all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True)):
                return -1
        config.profile = profile
        return 0

    def _set_cache(self, config, cache, ignore_mismatch):
        if cache.data and not cache.data.startswith(b"timings"):
            return False
        config.cache = self.trt.new("ITimingCache", data=cache.data or b"timings")
        return True

    def _combine(self, cache, other, ignore_mismatch):
        if not cache.data.startswith(b"timings") and cache.data:
            return False
        parts = {*cache.data.split(), *other.data.split()} - {b"timings"}
        cache.data = b" ".join([b"timings", *sorted(parts)])
        return True

    def _build(self, builder, network, config):
        inputs = {tensor.name: tuple(tensor.shape) for tensor in network.inputs}
        shapes = config.profile.shapes
        for name, shape in inputs.items():
            assert -1 not in shape or name in shapes, f"{name} has no profile"
            fixed = [(size, sizes) for size, *sizes in zip(shape, *shapes[name], strict=True) if size >= 0]
            assert all(set(sizes) == {size} for size, sizes in fixed), f"{name}: {shape} with {shapes[name]}"
        monitor = config.progress_monitor
        for name, parent, steps in self.phases:
            monitor.phase_start(name, parent, steps)
        for name, _, steps in reversed(self.phases):
            for step in range(steps):
                if self.on_step:
                    self.on_step(name, step)
                if not monitor.step_complete(name, step):
                    return None
            monitor.phase_finish(name)
        if self.fails:
            builder.their_logger.log(self.trt.ILogger.Severity.ERROR, self.fails)
            return None
        config.cache.data += b" " + Path(network.path).stem.encode()
        plan = MAGIC + json.dumps({"path": network.path, "profile": shapes}).encode()
        return self._bytes(plan)

    def _deserialize(self, runtime, data):
        if not data.startswith(MAGIC):
            runtime.their_logger.log(self.trt.ILogger.Severity.ERROR, "no plan")
            return None
        plan = json.loads(data.removeprefix(MAGIC))
        graph, modes = onnx.load(plan["path"]).graph, self.trt.TensorIOMode
        sides = [(value, modes.INPUT) for value in graph.input] + [(value, modes.OUTPUT) for value in graph.output]
        tensors, kinds = {}, {}
        for value, mode in sides:
            name, kinds[value.name] = TYPES[value.type.tensor_type.elem_type]
            tensors[value.name] = (mode, self.trt.DataType[name])
        session = onnxruntime.InferenceSession(plan["path"], providers=["CPUExecutionProvider"])
        return self.trt.new("ICudaEngine", tensors=tensors, kinds=kinds, profile=plan["profile"], session=session)

    def _set_input_shape(self, context, name, shape):
        least, _, most = context.made_by.profile[name]
        fits = all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))
        context.shapes[name] = tuple(shape)
        return fits

    def _set_address(self, context, name, memory):
        context.addresses[name] = memory
        return memory != 0

    def _infer(self, context):
        """Shapes of the outputs: those of a run on zeros."""
        kinds = context.made_by.kinds
        inputs = {name: np.zeros(shape, kinds[name]) for name, shape in context.shapes.items()}
        context.made = self._run(context.made_by.session, inputs)
        return []

    def _execute(self, context, stream_handle):
        assert stream_handle == 1234
        kinds = context.made_by.kinds
        inputs = {name: _memory(context.addresses[name], shape, kinds[name]) for name, shape in context.shapes.items()}
        for name, array in self._run(context.made_by.session, inputs).items():
            _memory(context.addresses[name], array.shape, kinds[name])[...] = array * self.scale
        return True

    @staticmethod
    def _run(session, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _memory(address: int, shape, kind) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    bytes_there = (ctypes.c_byte * max(size, 1)).from_address(address)
    return np.frombuffer(bytes_there, np.uint8)[:size].view(kind).reshape(shape)


def install(monkeypatch, tmp_path, *version):
    """A World in the place of TensorRT and its GPU, for one test."""
    made = World(*version)
    monkeypatch.setitem(sys.modules, "tensorrt", made.trt)
    monkeypatch.setattr("ussfast.engine.backends.trt.Cuda", Machine)
    monkeypatch.setenv("USSFAST_CACHE", str(tmp_path / "cache"))
    return made
