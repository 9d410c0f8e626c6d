"""Convolutions with batch normalisation, which for inference becomes a part of their weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.models._packed import Preparable

EPS, MOMENTUM = 1e-5, 0.01  # of the published models
SIZES = 2  # of images that weights are laid out for at one time


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
        if self._prepared is not None:
            if not torch.is_grad_enabled():
                return self._prepared(x, bias)
            if bias is not None and not self.weight.requires_grad:
                return _Frozen.apply(x, bias, self._prepared)
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
            pack: whether weights are also laid out as oneDNN wants them, at the first call with images of a size: with
                many channels and few pixels, that is what takes longest in a plain call. False prepares nothing.
        """
        self._prepared = self._folded(precision) if pack else None

    def _folded(self, precision: str) -> "_Folded":
        dtype = torch.bfloat16 if precision != "float32" and has_bfloat16(self.weight.device) else torch.float32
        _, shift = as_scale(self.norm)
        # Every 2x2 block of what a transposed convolution gives depends on 2x2 pixels.
        shift = shift.repeat(4) if self.up else shift
        # Of the parameters alone: what refers to the layer that keeps it is not freed with it.
        return _Folded(partial(_scaled, self.weight, self.norm, self.up, dtype), shift, dtype, self.channels, self.up)

    def __getstate__(self) -> dict[str, Any]:
        # Weights in a layout of oneDNN cannot be copied: copies prepare again.
        return self.__dict__ | {"_prepared": None}


@torch.no_grad()
def _scaled(weight: Tensor, norm: nn.BatchNorm2d, up: bool, dtype: torch.dtype) -> Tensor:
    """The weight with the norm's gain: of a convolution that, if `up`, makes four pixels at once."""
    scale, _ = as_scale(norm)
    if up:
        return _phases(weight * scale[:, None, None]).to(dtype)
    return (weight * scale[:, None, None, None]).to(dtype)


class _Folded:
    """A convolution with the norm in its weights, and what is around it.

    weight: gives [out, in, rows, columns], of `dtype`, which is computed in; if `up`, such as `_phases` gives. shift:
    what the norm adds.
    """

    def __init__(self, weight: Callable[[], Tensor], shift: Tensor, dtype: torch.dtype, channels: int, up: bool):
        self.channels, self.up, self.shift, self.dtype = channels, up, shift, dtype
        self._run = LaidOut(weight, 1)
        # The gradient of a convolution is one with the taps reversed, and channels out and in exchanged.
        self._back = LaidOut(lambda: weight().transpose(0, 1).flip(-2, -1), 0 if up else 1)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None and len(bias) == 1:
            # max(y, 0) + b = max(y + b, b): one pass over the image instead of two.
            added = bias[0].repeat(4) if self.up else bias[0]
            y = self._convolved(x, self.shift + added)
            lines, row = _lines(y, bias.to(self.dtype))
            lines.clamp_(min=row)
            return y
        y = self._convolved(x, self.shift, relu=True)
        if bias is not None:
            lines, row = _lines(y, bias.to(self.dtype))
            lines.add_(row)
        return y

    def with_mask(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and where the ReLU let through."""
        y = self._convolved(x, self.shift, relu=True)
        mask = y.to(torch.bool)  # several times as fast as a comparison
        lines, row = _lines(y, bias.to(self.dtype))
        lines.add_(row)
        return y, mask

    def back(self, grad: Tensor) -> Tensor:
        """The gradient of what was convolved, of that behind the convolution."""
        return self._back(self._halved(grad), None)

    def _convolved(self, x: Tensor, shift: Tensor, relu: bool = False) -> Tensor:
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return self._doubled(self._run(x, shift.to(self.dtype), relu))

    def _doubled(self, y: Tensor) -> Tensor:
        """[rows, 4 channels, height + 1, width + 1] -> [rows, channels, 2 height, 2 width]."""
        if not self.up:
            return y
        y = y[..., :-1, :-1].permute(0, 2, 3, 1).unflatten(-1, (2, 2, self.channels))
        return y.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def _halved(self, y: Tensor) -> Tensor:
        """The other way round, with zeros in the last row and column."""
        if not self.up:
            return y.contiguous(memory_format=torch.channels_last)
        rows, channels, height, width = y.shape
        out = y.new_zeros(rows, height // 2 + 1, width // 2 + 1, 4 * channels)
        parts = y.permute(0, 2, 3, 1).unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).transpose(2, 3)
        out[:, :-1, :-1] = parts.flatten(3)
        return out.permute(0, 3, 1, 2)


def _lines(y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, height, width * channels] of an image's memory and [rows, 1, width * channels] of biases [rows, channels],
    for passes that are as fast with few channels as with many."""
    lines = y.permute(0, 2, 3, 1).flatten(2)
    return lines, bias.repeat(1, y.shape[3])[:, None]


class _Frozen(torch.autograd.Function):
    """A folded convolution for gradients of images and biases alone: all that is kept is where its ReLU let through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, folded: _Folded) -> Tensor:
        y, mask = folded.with_mask(x, bias)
        ctx.save_for_backward(mask)
        ctx.folded, ctx.types = folded, (x.dtype, bias.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (mask,) = ctx.saved_tensors
        of_image, of_bias = ctx.types
        # A product of types that differ takes three times as long.
        image = ctx.folded.back(mask.to(grad.dtype).mul_(grad)).to(of_image) if ctx.needs_input_grad[0] else None
        bias = grad.sum((2, 3), dtype=torch.float32).to(of_bias) if ctx.needs_input_grad[1] else None
        return image, bias, None


def _phases(weight: Tensor) -> Tensor:
    """[in, out, 3, 3] of a transposed convolution of stride 2 -> [4 out, in, 2, 2] of one that, with one pixel of zeros
    around, gives the four pixels of each block, rows first: pixel (2i + p, 2j + q) is the sum over (a, b) of x(i - a,
    j - b) weight(p + 2a, q + 2b)."""
    channels_in, channels_out = weight.shape[:2]
    taps = F.pad(weight, (0, 1, 0, 1)).view(channels_in, channels_out, 2, 2, 2, 2)  # in, out, a, p, b, q
    return taps.permute(3, 5, 1, 0, 2, 4).flip(-2, -1).reshape(4 * channels_out, channels_in, 2, 2)


class LaidOut:
    """A convolution whose weight is laid out ahead for oneDNN, which otherwise does so in every call.

    How depends on the sizes of images: what is kept is for the last few that came. Where this torch cannot do that, or
    this CPU not in the weight's type, and on other devices, it is the plain convolution.

    Args:
        make: gives the weight, always the same: it is not kept beside what is laid out.
    """

    def __init__(self, make: Callable[[], Tensor], padding: int):
        self.make, self.padding = make, padding
        self._kept: dict[torch.Size | None, Tensor] = {}

    def __call__(self, x: Tensor, bias: Tensor | None, relu: bool = False) -> Tensor:
        if not can_lay_out(x):
            y = F.conv2d(x, self._weight(None), bias, padding=self.padding)
            return y.relu_() if relu else y
        around, one, after = [self.padding] * 2, [1, 1], "relu" if relu else "none"
        conv = torch.ops.mkldnn._convolution_pointwise
        return conv(x, self._weight(x.shape), bias, around, one, one, 1, after, [], "")

    @torch.no_grad()
    def _weight(self, images: torch.Size | None) -> Tensor:
        """Laid out for images of this shape, or as it is."""
        kept = self._kept.get(images)
        if kept is not None:
            return kept
        weight = self.make().contiguous(memory_format=torch.channels_last)
        if images is not None:
            around, one = [self.padding] * 2, [1, 1]
            weight = torch.ops.mkldnn._reorder_convolution_weight(weight, around, one, one, 1, list(images))
        # In another dictionary: other threads may look up theirs meanwhile.
        self._kept = {**dict(list(self._kept.items())[1 - SIZES :]), images: weight}
        return weight


def can_lay_out(x: Tensor) -> bool:
    """Whether this torch can, and this CPU computes in the type of these images."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return x.dtype != torch.bfloat16 or has_bfloat16(x.device)


def has_bfloat16(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 are something that the device does itself."""
    if device.type != "cpu":
        return True
    return hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
