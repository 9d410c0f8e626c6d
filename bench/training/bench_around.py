"""What a training step does around the kernels for training, each part beside a copy of what it cannot but move: its
inputs and results, and their gradients. `share` in extra_info is the copy's time over the part's.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ussfast import stft
from ussfast.models import build
from ussfast.train.bench import batch_of
from ussfast.train.high_band import HighBand
from ussfast.train.losses import prompt_loss
from ussfast.train.recipe import load_recipe

MIXTURES = 4
Part = tuple[Callable[..., Tensor], list[Tensor]]


def parts() -> dict[str, Part]:
    recipe = load_recipe("default")
    torch.manual_seed(0)
    model, batch = build(recipe.model), batch_of(recipe, MIXTURES)
    config, samples = recipe.model.stft, batch.mixture.shape[1]
    spec = stft.analyze(batch.mixture, config)
    level = torch.zeros(MIXTURES)
    raw = model._levelled(spec, level)[0]
    sources = batch.references.shape[1]
    masks = torch.randn(MIXTURES, sources, *spec.shape[1:], 2)
    estimates = batch.references + 0.01 * torch.randn_like(batch.references)
    rate, loss = recipe.model.sample_rate, recipe.loss

    def loss_of(est: Tensor) -> Tensor:
        high = HighBand.of(est, batch.references, batch.mixture, loss.high_hz, rate, loss.high_weight)
        return prompt_loss(est, batch.references, batch.prompts, (), batch.mixture, high=high)

    return {
        "spectra": (lambda x: torch.view_as_real(stft.analyze(x, config)), [batch.mixture]),
        "levels": (lambda s: model._levelled(torch.view_as_complex(s), level)[0], [torch.view_as_real(spec).clone()]),
        "features of bins": (model.features, [torch.cat((raw[:, :2], raw), 1)]),
        "masked inverse transform": (lambda m: stft.synthesize(m, config, samples, spec), [masks]),
        "loss": (loss_of, [estimates]),
    }


@pytest.mark.parametrize("name", ["spectra", "levels", "features of bins", "masked inverse transform", "loss"])
def bench_around(benchmark, interleaved, name):
    function, inputs = parts()[name]
    learnt = [x.requires_grad_() for x in inputs] if name not in ("spectra", "levels") else []
    with torch.no_grad():
        grad = torch.randn_like(function(*inputs))

    def call() -> object:
        with torch.inference_mode(not learnt), torch.set_grad_enabled(bool(learnt)):
            out = function(*inputs)
            return torch.autograd.grad(out, learnt, grad) if learnt else out

    moved = torch.empty(sum(x.numel() for x in inputs) + grad.numel())
    room = torch.empty_like(moved)
    # Half is read and half is written; the way back moves the same again.
    half = moved.numel() // 2

    def copy() -> None:
        for _ in range(2 if learnt else 1):
            room[:half].copy_(moved[:half])

    benchmark.group = "around the kernels for training"
    interleaved({"part": call, "copy": copy}, subject="part", rounds=9)
    found = benchmark.extra_info["median_us"]
    benchmark.extra_info["share"] = round(found["copy"] / found["part"], 3)
    print(f"\n{name}: {found['part'] / 1000:.2f} ms, {found['copy'] / found['part']:.0%} of the copy's rate")
