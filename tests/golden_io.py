"""Access to tests/golden: its models built through the converters, its arrays, and the comparison with them."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ussfast.checkpoints.store import fill
from ussfast.convert import FORMATS, zeroshot
from ussfast.convert._yaml import Table
from ussfast.models import SpectralModel
from ussfast.ops import use_reference

GOLDEN = Path(__file__).parent / "golden"


def settings(name: str) -> dict:
    """config.json of an instance: the publisher's settings, and a few of the recording."""
    return json.loads((GOLDEN / name / "config.json").read_text())


def arrays(name: str, which: str) -> dict[str, Tensor]:
    """inputs or outputs of an instance; *_int16 waveforms become float32 under the name without the suffix."""
    with np.load(GOLDEN / name / f"{which}.npz") as file:
        found = {key: torch.from_numpy(file[key]) for key in file.files}
    return {k.removesuffix("_int16"): v / 32768 if k.endswith("_int16") else v for k, v in found.items()}


def weights(name: str) -> dict[str, Tensor]:
    """Published state dict of an instance, as stored."""
    return load_file(GOLDEN / name / settings(name)["weights"])


@cache
def golden_model(name: str) -> SpectralModel:
    if name.startswith("zeroshot"):
        found = zeroshot.Settings(Table(settings(name), "config"), {})
        config = zeroshot.configure(found, weights(name))
        return fill(config, zeroshot.read_weights(weights(name), config), name)
    publisher = FORMATS["espnet" if "separator" in settings(name) else "tuss"]
    config = publisher.read_config(settings(name))
    return fill(config, publisher.read_weights(weights(name), config), name)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within `tolerance` of the largest expected magnitude, everywhere."""
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"off by {error:.1e} of the largest value, {tolerance:.0e} allowed"


def record(model: nn.Module, names: tuple[str, ...], run) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """What `run` returns, and (first input, output) of these submodules ("" is the model) while it runs."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = []
    for name in names:

        def keep(_, inputs, output, name=name):
            seen[name] = (inputs[0], output)

        hooks.append(model.get_submodule(name).register_forward_hook(keep))
    try:
        with torch.inference_mode():
            return run(), seen
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture(params=["reference", "native"])
def implementation(request):
    """Runs a test on plain PyTorch and on this machine's kernels."""
    with use_reference(request.param == "reference"):
        yield request.param
