"""HTS-AT of the published size on a 10 s clip, beside an implementation module by module as its papers describe it.

    python -m pytest bench/models/bench_htsat.py -q
    python -m pytest bench/models/bench_htsat.py -q -m "slow or not slow"    # with torch.compile

What the plain one does: windows cut, shifted and joined again by copies around every attention, relative biases looked
up and masks added in every call, norms as they are; attention through SDPA. Both get the same spectrogram.
"""

import copy
import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.models.detectors.htsat import Htsat
from ussfast.models.detectors.presets import random_detector
from ussfast.models.detectors.swin import position_index, shift_mask

ROUNDS = int(os.environ.get("BENCH_ROUNDS", 5))
DIFFERENCE = {"float32": 1e-5, "bfloat16": 0.03, "torch.compile": 1e-5}  # of the embedding, as a share of its peak


def cut(x: Tensor, window: int) -> Tensor:
    """[clips, side, side, dim] -> [windows, window^2, dim]."""
    clips, side, _, dim = x.shape
    x = x.view(clips, side // window, window, side // window, window, dim)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window**2, dim)


def join(x: Tensor, window: int, side: int) -> Tensor:
    x = x.view(-1, side // window, side // window, window, window, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(len(x), side, side, -1)


class PlainBlock(nn.Module):
    def __init__(self, block: nn.Module):
        super().__init__()
        a = self.a = block.attention
        self.b = block
        self.register_buffer("index", position_index(a.window))
        self.register_buffer("mask", shift_mask(a.side, a.window, a.shift) if a.shift else None)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a, self.b
        clips, tokens, dim = x.shape
        y = b.norm1(x).view(clips, a.side, a.side, dim)
        if a.shift:
            y = torch.roll(y, (-a.shift, -a.shift), (1, 2))
        y = cut(y, a.window)
        q, k, v = a.qkv(y).view(len(y), a.window**2, 3, a.heads, -1).permute(2, 0, 3, 1, 4)
        bias = a.table[self.index.view(-1)].view(a.window**2, a.window**2, -1).permute(2, 0, 1)[None]
        if self.mask is not None:
            bias = bias + self.mask.repeat(clips, 1, 1)[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = a.proj(y.transpose(1, 2).reshape(-1, a.window**2, dim))
        y = join(y, a.window, a.side)
        if a.shift:
            y = torch.roll(y, (a.shift, a.shift), (1, 2))
        x = x + y.view(clips, tokens, dim)
        return x + b.fc2(F.gelu(b.fc1(b.norm2(x))))


class Plain(nn.Module):
    """The same weights, module by module."""

    def __init__(self, model: Htsat):
        super().__init__()
        self.model = model
        self.blocks = nn.ModuleList(nn.ModuleList(map(PlainBlock, stage)) for stage in model.swin.stages)
        self.proj = nn.Conv2d(1, model.config.dim, model.config.patch, model.config.patch)
        self.proj.weight = nn.Parameter(model.patch.weight.view_as(self.proj.weight))
        self.proj.bias = model.patch.bias

    def forward(self, decibels: Tensor) -> Tensor:
        """The embedding; of a spectrogram as long as a clip of 10 s."""
        model, config = self.model, self.model.config
        x = model.norm(decibels.transpose(1, 2)).transpose(1, 2)[:, None]
        x = F.interpolate(x, (config.frames, x.shape[3]), mode="bicubic", align_corners=True)
        x = x.transpose(2, 3).reshape(len(x), 1, config.front.mels, config.strips, -1).permute(0, 1, 3, 2, 4)
        x = x.reshape(len(x), 1, config.image, config.image)
        x = model.patch_norm(self.proj(x).flatten(2).transpose(1, 2))
        for stage, blocks in enumerate(self.blocks):
            for block in blocks:
                x = block(x)
            if stage < len(model.swin.mergings):
                side = model.swin.side >> stage
                y = x.view(len(x), side, side, -1)
                parts = [y[:, 0::2, 0::2], y[:, 1::2, 0::2], y[:, 0::2, 1::2], y[:, 1::2, 1::2]]
                x = model.swin.mergings[stage](torch.cat(parts, -1).view(len(x), side * side // 4, -1))
        tokens = model.swin.norm(x)
        side = model.swin.last_side
        plane = tokens.transpose(1, 2).reshape(len(x), -1, config.strips, side // config.strips, side)
        logits = model.out(plane.permute(0, 1, 3, 2, 4).flatten(3))[:, :, 0]
        torch.sigmoid(logits).transpose(1, 2).repeat_interleave(32, 1)
        return tokens.mean(1)


def flop(model: Htsat) -> int:
    """Operations of the matrix products for one clip."""
    config, total = model.config, 0
    for stage, depth in enumerate(config.depths):
        dim, tokens = config.dim << stage, (model.swin.side >> stage) ** 2
        window = min(config.window, model.swin.side >> stage) ** 2
        total += depth * tokens * ((4 + 2 * config.expansion) * dim**2 + 2 * window * dim)
        total += tokens // 4 * 8 * dim**2 if stage + 1 < len(config.depths) else 0
    return 2 * total


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "compiled"])
@pytest.mark.parametrize("name", ["htsat-2048d", "htsat-768d"])
def bench_htsat(benchmark, interleaved, name, compiled):
    model = random_detector(name, seed=0).eval()
    assert isinstance(model, Htsat)
    plain, narrow = Plain(model).eval(), copy.deepcopy(model).fold(torch.bfloat16)
    log_mel = torch.randn(1, 1001, 64) * 20 - 40
    calls = {
        "float32": lambda: model.analyse(log_mel).embedding,
        "bfloat16": lambda: narrow.analyse(log_mel).embedding,
        "plain": lambda: plain(log_mel),
    }
    if compiled:
        fused = torch.compile(plain)
        calls["torch.compile"] = lambda: fused(log_mel)
    with torch.inference_mode():
        want = calls["plain"]()
        for key, most in DIFFERENCE.items():  # never time a wrong result
            if key in calls:
                share = float((calls[key]() - want).abs().max() / want.abs().max())
                assert share <= most, (key, share)
        benchmark.group = name
        interleaved(calls, subject="bfloat16", flop=flop(model), rounds=ROUNDS)
