"""The ASP U-Net of the published size, against the published definition written out module by module.

    BENCH_THREADS=2 python -m pytest bench/models/bench_asp_unet.py -q
    BENCH_SECONDS=2 python -m pytest bench/models/bench_asp_unet.py -q -m "slow or not slow"     # with torch.compile

Both take one window of noise and one prompt. The definition is in evaluation mode with channels-last weights: nothing
is folded, nothing is kept from call to call. torch.compile freezes its weights.
"""

import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor import config as inductor

from ussfast import stft
from ussfast.models.asp_unet import AspUnet
from ussfast.models.presets import random_model
from ussfast.profiling.flops import model_flop
from ussfast.separator import Separator

SECONDS = float(os.environ.get("BENCH_SECONDS") or 6)
ROUNDS = 5
TOLERANCE = {"straightforward": 2e-5, "torch.compile": 1e-4, "bf16": 5e-2}


class Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, latent_dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels_out), nn.BatchNorm2d(channels_out)
        self.emb1, self.emb2 = nn.Linear(latent_dim, channels_out), nn.Linear(latent_dim, channels_out)

    def layers(self) -> list[tuple[nn.Module, nn.Module, nn.Module]]:
        return [(self.conv1, self.bn1, self.emb1), (self.conv2, self.bn2, self.emb2)]

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x))) + self.emb1(c)[:, :, None, None]
        return F.relu(self.bn2(self.conv2(x))) + self.emb2(c)[:, :, None, None]


class Up(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, latent_dim: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, bias=False)
        self.bn, self.emb = nn.BatchNorm2d(channels_out), nn.Linear(latent_dim, channels_out)
        self.block = Block(2 * channels_out, channels_out, latent_dim)

    def layers(self) -> list[tuple[nn.Module, nn.Module, nn.Module]]:
        return [(self.conv, self.bn, self.emb)]  # the block has its own

    def forward(self, x: Tensor, skip: Tensor, c: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x))) + self.emb(c)[:, :, None, None]
        return self.block(torch.cat((x[:, :, :-1, :-1], skip), 1), c)


class Straightforward(nn.Module):
    """Of the model's configuration, with the model's weights; one prompt for each waveform."""

    def __init__(self, model: AspUnet):
        super().__init__()
        config, latent = model.config, model.config.latent_dim
        self.stft, widths, center = config.stft, config.encoder_channels, config.center_channels
        self.bn0 = nn.BatchNorm2d(config.stft.bins)
        self.down = nn.ModuleList(Block(a, b, latent) for a, b in zip((1, *widths[:-1]), widths, strict=True))
        self.center = Block(widths[-1], center, latent)
        back = widths[::-1]
        self.up = nn.ModuleList(Up(a, b, latent) for a, b in zip((center, *back[:-1]), back, strict=True))
        self.after, self.out = Block(widths[0], widths[0], latent), nn.Conv2d(widths[0], 1, 1)
        self.bn0.load_state_dict(model.bin_norm.norm.state_dict())
        self.out.load_state_dict(model.out.state_dict())
        blocks = [part for part in self.modules() if isinstance(part, Block | Up)]
        mine = [layer for block in blocks for layer in block.layers()]
        for (conv, bn, emb), layer in zip(mine, model.layers(), strict=True):
            conv.load_state_dict({"weight": layer.weight})
            bn.load_state_dict(layer.norm.state_dict())
            emb.load_state_dict(layer.emb.state_dict())

    def forward(self, audio: Tensor, c: Tensor) -> Tensor:
        """[batch, samples], [batch, latent_dim] -> [batch, samples]."""
        spec = stft.analyze(audio, self.stft)
        magnitude = (spec.real.square() + spec.imag.square()).sqrt()
        x = self.bn0(magnitude.transpose(1, 2)[..., None]).permute(0, 3, 2, 1)
        frames = x.shape[2]
        x = F.pad(x, (0, 0, 0, -frames % 2 ** len(self.down)))[..., :-1]
        x, skips = x.contiguous(memory_format=torch.channels_last), []
        for block in self.down:
            skips.append(block(x, c))
            x = F.avg_pool2d(skips[-1], 2)
        x = self.center(x, c)
        for up in self.up:
            x = up(x, skips.pop(), c)
        mask = F.pad(self.out(self.after(x, c)), (0, 1))[:, 0, :frames].sigmoid()
        safe = magnitude.clamp(min=1e-10)
        part = torch.complex(mask * magnitude * spec.real / safe, mask * magnitude * spec.imag / safe)
        window = stft.window(self.stft)
        return torch.istft(part.transpose(1, 2), self.stft.n_fft, self.stft.hop, window=window, length=audio.shape[1])


def contest(audio: Tensor, vector: Tensor, compiled: bool) -> tuple[dict[str, Callable[[], Tensor]], int]:
    """Ways to separate the same audio, and the operations of one."""
    model = random_model("asp-unet", 0).eval()
    assert isinstance(model, AspUnet)
    plain = Straightforward(model).eval().to(memory_format=torch.channels_last)
    runs: dict[str, Callable[[], Tensor]] = {"straightforward": lambda: plain(audio, vector)}
    if compiled:
        frozen = torch.compile(plain, dynamic=False)

        def run() -> Tensor:
            with inductor.patch(freezing=True):
                return frozen(audio, vector)

        runs["torch.compile"] = run
    for name, dtype in (("float32", "float32"), ("bf16", "bf16")):
        engine = Separator.from_preset("asp-unet", device="cpu", dtype=dtype).engine
        runs[name] = lambda engine=engine: torch.from_numpy(engine.run(audio.numpy(), engine.ask(vector), 1, ())[0])
        if name == "float32":  # against the same without looking a known set of prompts up
            known = engine.ask(vector)
            runs["biases at hand"] = lambda engine=engine, known=known: torch.from_numpy(
                engine.run(audio.numpy(), known, 1, ())[0]
            )
    return runs, model_flop(model.config, audio.shape[1], 1)


CASES = [pytest.param(False, id="eager"), pytest.param(True, id="with torch.compile", marks=pytest.mark.slow)]


@pytest.mark.parametrize("compiled", CASES)
def bench_asp_unet(benchmark, interleaved, compiled):
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(1, round(SECONDS * 32000), generator=generator)
    vector = torch.randn(1, 2048, generator=generator)
    with torch.inference_mode():
        runs, flop = contest(audio, vector, compiled)
        results = {name: run() for name, run in runs.items()}
    truth = results["straightforward"]
    for name, result in results.items():  # never time a wrong result
        difference = float((result - truth).abs().max() / truth.abs().max())
        assert difference <= TOLERANCE.get(name, 2e-5), (name, difference)
    benchmark.group = f"asp-unet, {SECONDS:g} s"
    interleaved(runs, subject="float32", flop=flop, rounds=ROUNDS)
