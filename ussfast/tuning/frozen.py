"""A model whose weights stay: what no prompt has a part in is computed once, and only prompts get gradients."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ussfast import stft
from ussfast._ext import cpu_isa
from ussfast.models import SpectralModel
from ussfast.models._packed import kernel_precision, prepare


@dataclass(frozen=True)
class Ahead:
    """Mixtures as far as no prompt matters. spec: [mixtures, frames, bins] complex; found: see `SpectralModel.ahead`;
    scale: [mixtures] level, where the model takes one out; samples: of each mixture."""

    spec: Tensor
    found: tuple[Tensor, ...]
    scale: Tensor | None
    samples: int

    @property
    def bytes(self) -> int:
        """Memory of it; the spectrum may be all that was found."""
        each = {id(t): t.numel() * t.element_size() for t in (self.spec, *self.found)}
        return sum(each.values())

    def pick(self, rows: Tensor) -> "Ahead":
        """Some of the mixtures."""
        spec = self.spec[rows]
        found = tuple(spec if t is self.spec else t[rows] for t in self.found)
        return Ahead(spec, found, None if self.scale is None else self.scale[rows], self.samples)

    @staticmethod
    def join(parts: list["Ahead"]) -> "Ahead":
        """Of mixtures of the same length."""
        spec = torch.cat([p.spec for p in parts])
        columns = zip(*(p.found for p in parts), strict=True)
        found = tuple(spec if column[0] is parts[0].spec else torch.cat(column) for column in columns)
        scales = [p.scale for p in parts if p.scale is not None]
        return Ahead(spec, found, torch.cat(scales) if scales else None, parts[0].samples)


class Frozen:
    """A twin of `model` that shares its weights and gives none of them a gradient; the model itself stays untouched,
    also while others use it.

    Args:
        precision: of matrix products; by default bfloat16 on a CPU that has such products, which takes half the time.
    """

    def __init__(self, model: SpectralModel, precision: str | None = None):
        self.model, self.weights = twin(model).eval(), list[nn.Parameter]()
        narrow = self.device.type == "cpu" and cpu_isa() == "avx512_bf16"
        self.precision = precision or ("bfloat16" if narrow else "float32")
        # Layers without kernels of ours take it from autocast, if not from what is prepared.
        self._plain = not any(hasattr(module, "precision") for module in self.model.modules())
        if self._plain:
            prepare(self.model, self.precision)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def ahead(self, mixtures: Tensor) -> Ahead:
        """[mixtures, samples] at the model's rate."""
        with torch.no_grad(), kernel_precision(self.model, self.precision):
            spec, scale = self.model.analyze(mixtures.to(self.device))
            return Ahead(spec, self.model.ahead(spec), scale, mixtures.shape[-1])

    def estimate(self, ahead: Ahead, prompt: Tensor) -> Tensor:
        """[mixtures, samples] of what `prompt` [dim] asks for, differentiable with respect to the prompt."""
        model: Any = self.model
        autocast = self._plain and self.precision == "bfloat16"
        with kernel_precision(model, self.precision):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
                out = model.behind(ahead.found, prompt[None])
            return waveforms(model, out.float(), ahead)


def waveforms(model: SpectralModel, out: Tensor, ahead: Ahead) -> Tensor:
    """[mixtures, samples] of a model's result for one prompt, at the level of the mixtures."""
    audio = stft.synthesize(out, model.config.stft, ahead.samples, ahead.spec if model.masking else None)[:, 0]
    return audio if ahead.scale is None else audio * ahead.scale[:, None]


def twin(model: nn.Module) -> Any:
    """A copy whose parameters are the same memory without gradients, and which has nothing prepared."""
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    shared |= {id(b): b for b in model.buffers()}
    for module in model.modules():
        prepared = getattr(module, "_prepared", None)
        if prepared is not None:
            shared[id(prepared)] = None
    return copy.deepcopy(model, shared)
