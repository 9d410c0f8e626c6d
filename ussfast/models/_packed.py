"""Modules whose weights are packed once for the CPU kernels."""

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from ussfast._ext import cpu_isa


class PackedModule(nn.Module):
    """A module that keeps its weights a second time, in the layout of this CPU's kernels.

    Only for inference: training or loading weights drops the packed form, and the ops then pack in every call. It is
    no parameter and no buffer: it is not saved and does not move between devices.
    """

    precision = "float32"
    packed: Tensor | None = None

    @abstractmethod
    def pack(self, precision: str) -> Tensor | None:
        """The packed weights, None if no kernel takes them; called only where there are CPU kernels."""

    def prepare(self, precision: str, pack: bool = True) -> None:
        """Sets the precision of the matrix products, see `ussfast.ops.locoformer_ffn`, and packs for it."""
        self.precision = precision
        on_cpu = all(p.device.type == "cpu" for p in self.parameters())
        with torch.no_grad():
            self.packed = self.pack(precision) if pack and on_cpu and cpu_isa() is not None else None

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.packed = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self.packed = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.packed = None
        super()._load_from_state_dict(*args, **kwargs)


def prepare(model: nn.Module, precision: str, pack: bool = True) -> None:
    """Sets the precision of a model's parts and, if they are to run on CPU kernels, packs their weights."""
    for module in model.modules():
        if isinstance(module, PackedModule):
            module.prepare(precision, pack)
