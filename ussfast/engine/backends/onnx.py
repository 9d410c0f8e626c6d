"""Graphs through onnxruntime."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ussfast.checkpoints.exported import GraphFile, graph_path, read_exported
from ussfast.engine.backends._narrow import emulated
from ussfast.engine.backends._sizes import check_sizes, sizes_of
from ussfast.errors import CheckpointError, DeviceError, InputError


class OnnxRunner:
    """ONNX graphs of a directory; sessions begin with their first use.

    Args:
        directory: of `ussfast.export --onnx`.
        device: what tensors are on and graphs run on; a GPU needs onnxruntime-gpu.
        threads: of each graph on the CPU; by default as many as PyTorch uses.
        arena: whether onnxruntime keeps the memory of its intermediate tensors from call to call: faster, and as much
            as the largest call needed.
    Raises:
        CheckpointError: no export. InputError: onnxruntime is not installed. DeviceError: it does not have the device.
    """

    def __init__(
        self, directory: str | os.PathLike[str], device: torch.device | str = "cpu", threads: int | None = None,
        arena: bool = True,
    ):  # fmt: skip
        self.directory, self.exported = Path(directory), read_exported(directory)
        if self.exported.kind != "onnx":
            raise CheckpointError(f"{directory}: packages of AOTInductor, not ONNX: use backend 'aoti'")
        self.device, self.threads, self.arena = torch.device(device), threads, arena
        try:
            import onnxruntime
        except ImportError:
            raise InputError("backend 'onnx' needs onnxruntime: pip install 'ussfast[onnx]'") from None
        self._provider = "CUDAExecutionProvider" if self.device.type == "cuda" else "CPUExecutionProvider"
        if self._provider not in onnxruntime.get_available_providers():
            raise DeviceError(f"this onnxruntime does not run on {device}: pip install onnxruntime-gpu, or use cpu")
        self._sessions: dict[str, tuple[Any, GraphFile]] = {}

    def run(self, graph: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Runner`."""
        session, known = self._session(graph)
        check_sizes(known, inputs)
        if self.device.type == "cpu":
            found = session.run(None, {name: tensor.contiguous().numpy() for name, tensor in inputs.items()})
            return {p.name: torch.from_numpy(value) for p, value in zip(known.outputs, found, strict=True)}
        return self._bound(session, known, {name: tensor.float().contiguous() for name, tensor in inputs.items()})

    def _bound(self, session: Any, known: GraphFile, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On a GPU, without a copy to the host."""
        binding, place = session.io_binding(), self.device.index or 0
        sizes = sizes_of(known, inputs)
        outputs = {}
        for port in known.outputs:
            shape = [d if isinstance(d, int) else sizes[d] for d in port.shape]
            outputs[port.name] = torch.empty(shape, device=self.device)
        torch.cuda.current_stream(self.device).synchronize()
        for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, tensor in tensors.items():
                bind(name, "cuda", place, "float32", list(tensor.shape), tensor.data_ptr())
        session.run_with_iobinding(binding)
        return outputs

    def _without_bfloat16(self, path: Path) -> bytes:
        """The graph for CPUs, for which onnxruntime has no products of bfloat16."""
        import onnx

        return emulated(onnx.load(path)).SerializeToString()

    def _session(self, graph: str) -> tuple[Any, GraphFile]:
        if graph not in self._sessions:
            import onnxruntime

            known = self.exported.graph(graph)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads or torch.get_num_threads()
            options.inter_op_num_threads = 1
            options.enable_cpu_mem_arena = self.arena
            options.log_severity_level = 3
            place = {"device_id": self.device.index or 0} if self.device.type == "cuda" else {}
            path = graph_path(self.directory, known)
            try:
                given = path if self.exported.precision != "bf16" or place else self._without_bfloat16(path)
                session = onnxruntime.InferenceSession(given, options, providers=[(self._provider, place)])
            except Exception as error:  # onnxruntime's own kinds, one for each thing that can be wrong
                raise CheckpointError(f"{path}: onnxruntime cannot load it: {error}") from None
            self._sessions[graph] = session, known
        return self._sessions[graph]
