"""Convolutions with a batch norm behind them, which is a part of them once it is not trained any more."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.models._packed import Preparable


class ConvNorm(Preparable):
    """3x3 convolution without bias, batch norm and ReLU."""

    _prepared: tuple[Tensor, Tensor] | None

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def fold(self, dtype: torch.dtype) -> None:
        """Keeps the convolution with the norm's gain and offset in it, channels last, which CPUs and GPUs like best."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        with torch.no_grad():
            gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            weight = self.conv.weight.double() * gain[:, None, None, None]
            bias = norm.bias.double() - norm.running_mean.double() * gain
            laid_out = weight.to(dtype).contiguous(memory_format=torch.channels_last)
            self._prepared = laid_out, bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[clips, inputs, frames, bins] -> [clips, outputs, frames, bins]."""
        if self._prepared is None or self.training or torch.is_grad_enabled():
            return F.relu(self.norm(self.conv(x)))
        weight, bias = self._prepared
        return F.conv2d(x.to(weight.dtype), weight, bias, padding=1).relu_()
