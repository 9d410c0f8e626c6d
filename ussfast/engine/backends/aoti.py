"""Graphs compiled by AOTInductor, each a shared library in a .pt2 file."""

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ussfast.checkpoints.exported import GraphFile, graph_path, read_exported
from ussfast.engine.backends._sizes import check_sizes
from ussfast.errors import CheckpointError, DeviceError

# What AOTInductor calls instruction sets, and how the system spells it.
_FLAGS = {"AVX512": "avx512f"}


class AotiRunner:
    """Packages of a directory; each is loaded with its first use, and needs no compiler then.

    Args:
        directory: of `ussfast.export --aoti`.
        device: what tensors are on and graphs run on: what the packages were made for.
        threads: that the packages' own loops use on the CPU; by default as many as PyTorch uses.
    Raises:
        CheckpointError: no export of this kind.
    """

    def __init__(
        self, directory: str | os.PathLike[str], device: torch.device | str = "cpu", threads: int | None = None
    ):
        self.directory, self.exported = Path(directory), read_exported(directory)
        if self.exported.kind != "aoti":
            raise CheckpointError(f"{directory}: ONNX, not packages of AOTInductor: use backend 'onnx'")
        self.device, self.threads = torch.device(device), threads
        self._packages: dict[str, tuple[Any, GraphFile]] = {}

    def run(self, graph: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Runner`.

        Raises:
            DeviceError, CheckpointError: the package is for another device or processor, or no package.
        """
        package, known = self._package(graph)
        check_sizes(known, inputs)
        # The library reads memory as it was laid out when it was made: without gaps.
        rows = [inputs[port.name].detach().to(self.device, torch.float32).contiguous() for port in known.inputs]
        with torch.no_grad(), _threads(self.threads):
            found = package.run(rows)
        given = {tensor.data_ptr() for tensor in rows}
        return {
            port.name: tensor.clone() if tensor.data_ptr() in given else tensor
            for port, tensor in zip(known.outputs, found, strict=True)
        }

    def _package(self, graph: str) -> tuple[Any, GraphFile]:
        if graph not in self._packages:
            known = self.exported.graph(graph)
            path = graph_path(self.directory, known)
            loader: Any = torch._C._aoti.AOTIModelPackageLoader
            try:
                self._check(path, loader.load_metadata_from_package(str(path), "model"))
                place = -1 if self.device.index is None else self.device.index
                package = loader(str(path), "model", False, 1, place)
            except RuntimeError as error:
                said = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise CheckpointError(f"{path}: cannot be loaded: {said}") from None
            self._packages[graph] = package, known
        return self._packages[graph]

    def _check(self, path: Path, about: Mapping[str, str]) -> None:
        """DeviceError for a package that would not run here: a wrong instruction ends a program without a word."""
        made_for = about.get("AOTI_DEVICE_KEY", "cpu")
        if made_for != self.device.type:
            raise DeviceError(f"{path}: made for {made_for}, not for {self.device.type}: export it with that device")
        machine = about.get("AOTI_MACHINE", platform.machine())
        if machine != platform.machine():
            raise DeviceError(f"{path}: made on {machine}, and this is {platform.machine()}: export it here")
        if missing := missing_instructions(about.get("AOTI_CPU_ISA", ""), cpu_flags()):
            raise DeviceError(f"{path}: made for a processor with {', '.join(missing)}, which this one has not: export "
                              "it here")  # fmt: skip


def missing_instructions(wanted: str, flags: set[str]) -> list[str]:
    """Of the instruction sets that a package names, those that are not among `flags`; none if these are unknown."""
    words = [_FLAGS.get(word, word.lower()) for word in wanted.split() if word.startswith(("AVX", "AMX"))]
    return [word for word in words if flags and word not in flags]


def cpu_flags() -> set[str]:
    """Of this processor, as Linux tells them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """PyTorch's number of threads, for a while."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        if number is not None:
            torch.set_num_threads(before)
