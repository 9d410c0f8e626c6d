"""Modules whose weights are laid out once for the ops and packed for the CPU kernels."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from ussfast._ext import cpu_isa
from ussfast.ops._quantize import check_precision

T = TypeVar("T")


class Preparable(nn.Module):
    """Keeps what is made from its weights for inference.

    Training, loading a state dict and moving or converting the module drop it; who changes weights in place otherwise
    must prepare again. What is kept is no parameter and no buffer: it is not saved.
    """

    _prepared: Any = None

    def prepare(self, precision: str, pack: bool = True) -> None:
        """Makes ahead what only inference needs, where there is something; see `prepare` below."""

    def kept(self, make: Callable[[], T]) -> T:
        """What `make` gives, made once: always the same function for the same module."""
        if self._prepared is None:
            self._prepared = make()
        return self._prepared

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._prepared = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._prepared = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._prepared = None
        super()._load_from_state_dict(*args, **kwargs)


class PackedModule(Preparable):
    """A module around one op; on request it keeps its weights as the op and this CPU's kernels want them.

    Where nothing is prepared, the ops pack in every call.

    matrices: places in `op_weights` of what goes into matrix products whose precision can be chosen.
    """

    precision = "float32"
    matrices: tuple[int, ...] = ()
    _prepared: tuple[Tensor | None, ...] | None

    @abstractmethod
    def op_weights(self) -> tuple[Any, ...]:
        """The op's weights, differentiable; None where the op takes none."""

    @abstractmethod
    def pack(self, weights: tuple[Any, ...]) -> Tensor | None:
        """The same packed for `self.precision`; None if no kernel takes them. Called only if there are CPU kernels."""

    def prepare(self, precision: str, pack: bool = True) -> None:
        """Lays out the weights for calls without gradients, and packs them if they are to run on CPU kernels.

        Args:
            precision: of the matrix products, see `ussfast.ops.locoformer_ffn`; for layers that have a choice.
        """
        check_precision(precision)
        self.precision = precision
        with torch.no_grad():
            weights = tuple(weight if weight is None else weight.detach() for weight in self.op_weights())
            on_cpu = all(weight is None or weight.device.type == "cpu" for weight in weights)
            native = pack and on_cpu and cpu_isa() is not None
            if precision == "bfloat16" and not on_cpu:
                weights = self.narrowed(weights)
            self._prepared = (*weights, self.pack(weights) if native else None)

    def narrowed(self, weights: tuple[Any, ...]) -> tuple[Any, ...]:
        """The matrices in bfloat16, so that no call has to convert them; norms and biases as they are."""
        return tuple(w.to(torch.bfloat16) if i in self.matrices else w for i, w in enumerate(weights))

    def weights_and_packed(self) -> tuple[Any, ...]:
        """The op's weights and packed weights, prepared or taken from the parameters now."""
        if self._prepared is not None and not torch.is_grad_enabled():
            return self._prepared
        return (*self.op_weights(), None)


def prepare(model: nn.Module, precision: str, pack: bool = True) -> None:
    """Prepares all parts of a model that can be."""
    for module in model.modules():
        if isinstance(module, Preparable):
            module.prepare(precision, pack)


@contextmanager
def kernel_precision(model: nn.Module, precision: str) -> Iterator[None]:
    """Inside the `with`, the layers' own kernels take their matrix products in `precision`."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "precision")]
    before = [layer.precision for layer in layers]
    for layer in layers:
        layer.precision = precision
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.precision = old
