"""Stages of a Swin transformer on square images: attention within windows, every other block's shifted by half a one.

Between blocks, tokens lie in the order of the next block's windows, so that windows are no more than a view: one gather
where windows change takes the place of shifting, cutting, joining and shifting back.
Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.models._packed import Preparable
from ussfast.ops._scan import unknown

APART = -100.0  # added to the logits of tokens that are neighbours only because the image was shifted around its edge
TOKENS = 512  # of an MLP at once where nothing is to be differentiated: what is between its layers stays in the cache


def window_order(side: int, window: int, shift: int) -> Tensor:
    """int64 [side * side]: the row-major place of every token, window by window of the image shifted by `shift`."""
    places = torch.arange(side * side).view(side, side).roll((-shift, -shift), (0, 1))
    count = side // window
    return places.view(count, window, count, window).transpose(1, 2).flatten()


def inverse(order: Tensor) -> Tensor:
    """The place in `order` of each of its numbers."""
    return torch.zeros_like(order).scatter(0, order, torch.arange(len(order)))


def position_index(window: int) -> Tensor:
    """int64 [window^2, window^2]: the row of the bias table for each pair of tokens, query first."""
    places = torch.arange(window)
    y, x = places.repeat_interleave(window), places.repeat(window)
    rows = y[:, None] - y[None] + window - 1
    return rows * (2 * window - 1) + x[:, None] - x[None] + window - 1


def shift_mask(side: int, window: int, shift: int) -> Tensor:
    """float32 [windows, window^2, window^2]: APART where two tokens are of different parts of the image, else 0."""
    part = torch.zeros(side, dtype=torch.int64)
    part[side - window : side - shift], part[side - shift :] = 1, 2
    # Parts belong to places of the shifted image, so they are cut into windows without another shift.
    parts = (3 * part[:, None] + part).flatten()[window_order(side, window, 0)].view(-1, window**2)
    return torch.where(parts[:, :, None] == parts[:, None], 0.0, APART)


class Matrix(Preparable, nn.Linear):
    """A linear layer that keeps its weights in a narrower type for inference, on request."""

    _prepared: tuple[Tensor, Tensor | None] | None

    def narrow(self, dtype: torch.dtype) -> None:
        """Inputs are converted from now on, and results are of that type, too."""
        bias = self.bias
        with torch.no_grad():
            self._prepared = self.weight.to(dtype), None if bias is None else bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self._prepared is None or self.training or torch.is_grad_enabled():
            return super().forward(x)
        weight, bias = self._prepared
        return F.linear(x.to(weight.dtype), weight, bias)


class Attention(Preparable):
    """Multi-head attention within windows, with a learned bias for each relative position."""

    def __init__(self, dim: int, heads: int, side: int, window: int, shift: int):
        super().__init__()
        self.heads, self.side, self.window, self.shift = heads, side, window, shift
        self.qkv = Matrix(dim, 3 * dim)
        self.proj = Matrix(dim, dim)
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.normal_(self.table, std=0.02)

    def bias(self) -> Tensor:
        """[windows or 1, heads, window^2, window^2], what is added to the logits."""
        return self._make_bias() if torch.is_grad_enabled() else self.kept(self._make_bias)

    def _make_bias(self) -> Tensor:
        index = position_index(self.window).to(self.table.device)
        bias = self.table[index].permute(2, 0, 1)[None]
        if self.shift:
            bias = bias + shift_mask(self.side, self.window, self.shift).to(bias)[:, None]
        return bias.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """[clips, tokens, dim] in the order of the windows -> the same shape, without what was given added."""
        qkv = self.qkv(x).view(x.shape[0], -1, self.window**2, 3, self.heads, x.shape[-1] // self.heads)
        bias = self.bias().to(qkv.dtype)
        if len(bias) == 1:
            y = attend(qkv.flatten(0, 1), bias)
        elif unknown(x.shape[0]):  # a graph for any number of clips
            q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)
            weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias).softmax(-1)
            y = (weights @ v).transpose(2, 3)
        else:  # Clips share what is added, which the op cannot express over windows of several.
            y = torch.cat([attend(clip, bias) for clip in qkv])
        return self.proj(y.reshape(x.shape))


def attend(qkv: Tensor, bias: Tensor) -> Tensor:
    """[windows, tokens, 3, heads, width] -> [windows, tokens, heads, width]."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


class Block(nn.Module):
    """Attention within windows and an MLP, each behind a norm and added to what it was given.

    drop_path: how often, in training, a clip goes past each of the two.
    """

    def __init__(self, dim: int, heads: int, side: int, window: int, shift: int, expansion: int, drop_path: float):
        super().__init__()
        self.drop_path = drop_path
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, side, window, shift)
        self.fc1, self.fc2 = Matrix(dim, expansion * dim), Matrix(expansion * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[clips, tokens, dim] in the order of the windows."""
        x = x + self._dropped(self.attention(self.norm1(x)))
        if torch.is_grad_enabled():
            return x + self._dropped(self._mlp(x))
        rows = x.view(-1, x.shape[-1])
        return torch.cat([part + self._mlp(part) for part in rows.split(TOKENS)]).view(x.shape)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def _dropped(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_path:
            return x
        keep = 1 - self.drop_path
        return x * (torch.rand(len(x), 1, 1, device=x.device) < keep).to(x.dtype) / keep


class Merging(nn.Module):
    """Four neighbouring tokens become one of twice the width."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Matrix(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[clips, tokens, 4 dim] -> [clips, tokens, 2 dim]."""
        return self.reduction(self.norm(x)).to(x.dtype)


def merging_order(side: int, window: int) -> Tensor:
    """int64 [side^2]: row-major places of the four tokens of each token of the next stage, whose windows are `window`.

    Both even, odd row, odd column, both odd.
    """
    y, x = torch.arange(0, side, 2)[:, None] * side, torch.arange(0, side, 2)[None]
    corner = (y + x).flatten()[window_order(side // 2, window, 0)]
    return (corner[:, None] + torch.tensor([0, side, 1, side + 1])).flatten()


class Swin(Preparable):
    """All stages, the norm behind them included.

    side: of the image in tokens. drop_path: that of the last block; it rises linearly from 0.
    """

    def __init__(self, dim: int, depths: tuple[int, ...], heads: tuple[int, ...], side: int, window: int,
                 expansion: int, drop_path: float):  # fmt: skip
        super().__init__()
        drops = iter(torch.linspace(0, drop_path, sum(depths)).tolist())
        self.side, self.last_side, self.window = side, side >> (len(depths) - 1), window
        self.stages, self.mergings = nn.ModuleList(), nn.ModuleList()
        self.orders: list[list[Tensor]] = []
        for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            width, across = dim << stage, side >> stage
            size = min(window, across)
            shifts = [size // 2 if index % 2 and across > size else 0 for index in range(depth)]
            self.stages.append(
                nn.ModuleList(Block(width, count, across, size, s, expansion, next(drops)) for s in shifts)
            )
            self.orders.append([window_order(across, size, s) for s in shifts])
            if stage + 1 < len(depths):
                self.mergings.append(Merging(width))
        self.norm = nn.LayerNorm(dim << (len(depths) - 1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.inference_mode(False)  # they may be kept for gradients, too
    def _gathers(self) -> list[tuple[list[Tensor | None], Tensor]]:
        """Per stage, what to take for each block (None where tokens lie as they should), and behind the last."""
        device = self.norm.weight.device
        found = []
        for stage, orders in enumerate(self.orders):
            # The first stage gets rows of the image, the others what the merging before them made.
            steps: list[Tensor | None] = [None if stage else orders[0]]
            for before, after in zip(orders, orders[1:], strict=False):
                steps.append(None if torch.equal(before, after) else inverse(before)[after])
            across = self.side >> stage
            if stage + 1 == len(self.orders):
                wanted = torch.arange(across**2)
            else:
                wanted = merging_order(across, min(self.window, across // 2))
            moved = [None if step is None else step.to(device) for step in steps]
            found.append((moved, inverse(orders[-1])[wanted].to(device)))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """[clips, side^2, dim], row-major -> [clips, last_side^2, last dim], row-major, normed."""
        for stage, (gathers, behind) in enumerate(self.kept(self._gathers)):
            for block, gather in zip(cast(nn.ModuleList, self.stages[stage]), gathers, strict=True):
                x = block(x if gather is None else x.index_select(1, gather))
            x = x.index_select(1, behind)
            if stage < len(self.mergings):
                x = self.mergings[stage](x.view(x.shape[0], -1, 4 * x.shape[-1]))
        return self.norm(x)
