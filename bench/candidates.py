"""The models that benches compare, and the ways to run them."""

import os
from collections.abc import Callable

from torch._inductor import config as inductor

from ussfast import _ext
from ussfast.engine.settings import pick_device
from ussfast.models import SpectralModel
from ussfast.profiling.profile import one_window
from ussfast.separation import Separation
from ussfast.separator import Separator

MODELS = ("tuss-medium", "tuss-large", "tflocoformer-m", "default")
SETTINGS = {
    "reference": {"backend": "reference"},
    "torch.compile": {"backend": "reference"},
    "native": {"backend": "native"},
    "native-int8": {"backend": "native", "dtype": "int8"},
}
# What a candidate may differ from the reference by, as a share of the peak; int8 rounds on purpose.
TOLERANCE = {"reference": 0.0, "torch.compile": 1e-3, "native": 1e-4}
PROMPTS = ("speech", "sfxbg")
SECONDS = float(os.environ.get("BENCH_SECONDS") or 6)


def why_not(backend: str, model: str = "") -> str | None:
    """The reason why this machine or this model cannot run it; None if it can."""
    if backend == "native-int8" and model == "default":
        return "the causal model has no dtype int8"
    if backend.startswith("native"):
        device = pick_device("auto").type
        rows = [row for row in _ext.kernels() if row["device"] == device]
        if all(row["kernel"] == "reference" for row in rows):
            return f"no native kernels: {rows[0]['why']}"
    return None


def load(model: str) -> SpectralModel:
    """The embedded model, or a preset with seeded random weights."""
    if model == "default":
        return Separator("default", backend="reference").engine.model
    return Separator.from_preset(model, backend="reference", seed=0).engine.model


def start(
    network: SpectralModel, backend: str, seconds: float = SECONDS
) -> tuple[Separator, Callable[[], Separation], int]:
    """A separator for the network, a run on `seconds` of noise, and the operations of one run."""
    prompts = PROMPTS if network.prompt_names else ()
    separator = Separator.from_model(network, prompts, segment=max(6.0, seconds), **SETTINGS[backend])
    run, flop = one_window(separator, seconds)
    if backend != "torch.compile":
        return separator, run, flop
    network.compile(dynamic=False)

    def compiled() -> Separation:
        # Compiled in the first call: weights become constants, laid out as the products want them.
        with inductor.patch(freezing=True):
            return run()

    return separator, compiled, flop
