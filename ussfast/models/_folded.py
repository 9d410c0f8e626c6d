"""Convolutions with batch normalisation, which for inference becomes a part of their weights."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.models._packed import Preparable

EPS, MOMENTUM = 1e-5, 0.01  # of the published models
FEW = 64  # rows and columns of the images that weights are laid out for; others are right, too, if not as fast


@torch.no_grad()
def as_scale(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a channel is multiplied with, and what is added, in evaluation; rounded once, to the norm's own type."""
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return scale.to(norm.weight.dtype), shift.to(norm.weight.dtype)


class NormedConv(Preparable):
    """ReLU(norm(convolution(x))) + bias: 3x3 with zeros around, or, if `up`, transposed with stride 2, of whose result
    the last row and column are dropped, so that both sizes double.

    The bias of each row is a linear map of its prompt, `emb`, that callers compute ahead; it is behind the ReLU, so
    that results can be negative.
    """

    def __init__(self, channels_in: int, channels_out: int, latent_dim: int, up: bool = False):
        super().__init__()
        self.up, self.channels = up, channels_out
        shape = (channels_in, channels_out) if up else (channels_out, channels_in)
        self.weight = nn.Parameter(torch.empty(*shape, 3, 3))
        self.norm = nn.BatchNorm2d(channels_out, eps=EPS, momentum=MOMENTUM)
        self.emb = nn.Linear(latent_dim, channels_out)
        nn.init.xavier_uniform_(self.weight)
        nn.init.uniform_(self.emb.weight, -0.1, 0.1)
        nn.init.zeros_(self.emb.bias)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x: [rows, channels, height, width]; bias: [rows, channels], none if it is to be added later."""
        if self._prepared is not None and not torch.is_grad_enabled():
            return self._prepared(x, bias)
        if self.up:
            y = F.conv_transpose2d(x, self.weight, stride=2)[..., :-1, :-1]
        else:
            y = F.conv2d(x, self.weight, padding=1)
        y = F.relu(self.norm(y))
        return y if bias is None else y + bias[:, :, None, None]

    def prepare(self, precision: str, pack: bool = True) -> None:
        """Folds the norm into the convolution for calls without gradients; the parameters stay as they are.

        Args:
            precision: int8 is bfloat16 here, and so is what comes out. A CPU that has no bfloat16 computes in float32.
            pack: whether weights are also laid out as oneDNN wants them: with many channels and few pixels, that is
                what takes longest in a plain call. False prepares nothing.
        """
        self._prepared = self._folded(precision) if pack else None

    @torch.no_grad()
    def _folded(self, precision: str) -> Callable[[Tensor, Tensor | None], Tensor]:
        device = self.weight.device
        dtype = torch.bfloat16 if precision != "float32" and has_bfloat16(device) else torch.float32
        scale, shift = as_scale(self.norm)
        if self.up:
            # Every 2x2 block of the result depends on 2x2 pixels: a convolution that makes the four at once.
            weight, shift = _phases(self.weight * scale[:, None, None]), shift.repeat(4)
        else:
            weight = self.weight * scale[:, None, None, None]
        weight, padding = weight.to(dtype).contiguous(memory_format=torch.channels_last), 1
        run = laid_out(weight, padding)
        fold = _Folded(self.channels, self.up, shift, dtype)
        return lambda x, bias: fold(run, x, bias)

    def __getstate__(self) -> dict[str, Any]:
        # Weights in a layout of oneDNN cannot be copied: copies prepare again.
        return self.__dict__ | {"_prepared": None}


class _Folded:
    """What is left to do around a convolution with folded weights; `shift` is what the norm adds."""

    def __init__(self, channels: int, up: bool, shift: Tensor, dtype: torch.dtype):
        self.channels, self.up, self.shift, self.dtype = channels, up, shift, dtype

    def __call__(self, conv: Callable[[Tensor, Tensor], Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        if bias is not None and len(bias) == 1:
            # max(y, 0) + b = max(y + b, b): one pass over the image instead of two.
            added = bias[0].repeat(4) if self.up else bias[0]
            y = self._doubled(conv(x, (self.shift + added).to(self.dtype)))
            return y.clamp_(min=bias[0].to(self.dtype)[:, None, None])
        y = self._doubled(conv(x, self.shift.to(self.dtype))).relu_()
        return y if bias is None else y.add_(bias.to(self.dtype)[:, :, None, None])

    def _doubled(self, y: Tensor) -> Tensor:
        """[rows, 4 channels, height + 1, width + 1] -> [rows, channels, 2 height, 2 width]."""
        if not self.up:
            return y
        y = y[..., :-1, :-1].permute(0, 2, 3, 1).unflatten(-1, (2, 2, self.channels))
        return y.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _phases(weight: Tensor) -> Tensor:
    """[in, out, 3, 3] of a transposed convolution of stride 2 -> [4 out, in, 2, 2] of one that, with one pixel of zeros
    around, gives the four pixels of each block, rows first: pixel (2i + p, 2j + q) is the sum over (a, b) of x(i - a,
    j - b) weight(p + 2a, q + 2b)."""
    channels_in, channels_out = weight.shape[:2]
    taps = F.pad(weight, (0, 1, 0, 1)).view(channels_in, channels_out, 2, 2, 2, 2)  # in, out, a, p, b, q
    return taps.permute(3, 5, 1, 0, 2, 4).flip(-2, -1).reshape(4 * channels_out, channels_in, 2, 2)


def laid_out(weight: Tensor, padding: int, relu: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, bias) -> the convolution, with its weight laid out once for oneDNN, which otherwise does so in every call.

    Where this torch cannot do that, or this CPU not in the weight's type, and on other devices: the plain one.
    """
    weight = weight.contiguous(memory_format=torch.channels_last)
    packed = _packed(weight, padding)
    if packed is None:
        act = F.relu_ if relu else lambda y: y
        return lambda x, bias: act(F.conv2d(x, weight, bias, padding=padding))
    around, one, after = [padding, padding], [1, 1], "relu" if relu else "none"
    conv = torch.ops.mkldnn._convolution_pointwise
    return lambda x, bias: conv(x, packed, bias, around, one, one, 1, after, [], "")


def _packed(weight: Tensor, padding: int) -> Tensor | None:
    ops = torch.ops.mkldnn
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_convolution_pointwise"):
        return None
    if weight.dtype == torch.bfloat16 and not has_bfloat16(weight.device):
        return None
    shape = [1, weight.shape[1], FEW, FEW]
    return ops._reorder_convolution_weight(weight, [padding, padding], [1, 1], [1, 1], 1, shape)


def has_bfloat16(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 are something that the device does itself."""
    if device.type != "cpu":
        return True
    return hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
