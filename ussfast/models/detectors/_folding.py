"""Convolutions with a batch norm behind them, which is a part of them once it is not trained any more."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.models._packed import Preparable

ONES = [1, 1]


class ConvNorm(Preparable):
    """3x3 convolution without bias, batch norm and ReLU."""

    _prepared: tuple[Tensor, Tensor] | None

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def fold(self, dtype: torch.dtype) -> None:
        """Keeps the convolution with the norm's gain and offset in it, channels last and arranged for this CPU."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        with torch.no_grad():
            gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            weight = (self.conv.weight.double() * gain[:, None, None, None]).to(dtype)
            bias = norm.bias.double() - norm.running_mean.double() * gain
            self._prepared = _laid_out(weight), bias.to(dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are not prepared: what is arranged for a CPU cannot be read."""
        return self.__dict__ | {"_prepared": None}

    def forward(self, x: Tensor) -> Tensor:
        """[clips, inputs, frames, bins] -> [clips, outputs, frames, bins]."""
        if self._prepared is None or self.training or torch.is_grad_enabled():
            return F.relu(self.norm(self.conv(x)))
        weight, bias = self._prepared
        x = x.to(bias.dtype)
        if weight.is_mkldnn:
            return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, ONES, ONES, ONES, 1, "relu", [], "")
        return F.conv2d(x, weight, bias, padding=1).relu_()


def _laid_out(weight: Tensor) -> Tensor:
    """The weight as oneDNN wants it, which else arranges it anew in every call: for the last blocks, most of the time.

    Where this PyTorch does not have what it compiles models with, or this CPU the type, channels last.
    """
    weight = weight.contiguous(memory_format=torch.channels_last)
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return weight
    try:
        _ = torch.ops.mkldnn._convolution_pointwise
        return torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), ONES, ONES, ONES, 1)
    except (AttributeError, RuntimeError):
        return weight
