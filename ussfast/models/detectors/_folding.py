"""Convolutions of detectors, with a batch norm behind them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.models._folded import LaidOut, as_scale
from ussfast.models._packed import Preparable


class ConvNorm(Preparable):
    """3x3 convolution without bias, batch norm and ReLU."""

    _prepared: Callable[[Tensor], Tensor] | None

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def fold(self, dtype: torch.dtype) -> None:
        """Keeps the convolution with the norm's gain and offset in it."""
        bias = as_scale(self.norm)[1].to(dtype)
        run = LaidOut(partial(_scaled, self.conv.weight, self.norm, dtype), 1)
        self._prepared = lambda x: run(x.to(dtype), bias, relu=True)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are not prepared: what is arranged for a CPU cannot be read."""
        return self.__dict__ | {"_prepared": None}

    def forward(self, x: Tensor) -> Tensor:
        """[clips, inputs, frames, bins] -> [clips, outputs, frames, bins]."""
        if self._prepared is None or self.training or torch.is_grad_enabled():
            return F.relu(self.norm(self.conv(x)))
        return self._prepared(x)


def _scaled(weight: Tensor, norm: nn.BatchNorm2d, dtype: torch.dtype) -> Tensor:
    return (weight * as_scale(norm)[0][:, None, None, None]).to(dtype)
