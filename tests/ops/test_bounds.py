"""Kernels that only our own code calls check every index and size that they are given, whoever calls."""

import pytest
import torch
from tiny import CAUSAL, tiny_model

from ussfast._ext import cpu_isa
from ussfast.models.causal.hop import initial_state
from ussfast.models.causal.step import TrunkStep

pytestmark = pytest.mark.skipif(cpu_isa() is None, reason="the C++ extension is not loaded")


def step_arguments():
    """Of `_trunk_step_` for two of three streams with two sources, as TrunkStep gives them."""
    model = tiny_model(CAUSAL)
    native = TrunkStep(model, initial_state(model, 3, 2), 2)
    native._ask(model.condition(model.prompt_vectors(("speech", "drums"))))
    *work, out = native._room(2)
    return {
        "audio": torch.randn(2, CAUSAL.stft.hop), "places": [0, 2], "sizes": list(native._sizes),
        "precision": "float32", "weights": native._weights, "modulation": native._modulation, "state": native._state,
        "work": work, "out": out,
    }  # fmt: skip


def run(arguments):
    torch.ops.ussfast._trunk_step_.default(*arguments.values())


def test_a_step_runs():
    run(step_arguments())


@pytest.mark.parametrize("places", [[0, -1], [0, 3], [2, 2], [0], [], [-(2**63), 0], [0, 2**62]])
def test_a_step_takes_places_that_there_are(places):
    with pytest.raises(RuntimeError, match="place|items|adjacent"):
        run(step_arguments() | {"places": places})


@pytest.mark.parametrize("value", [0, -1, -(2**63), 2**62, 10**8])
@pytest.mark.parametrize("at", range(8))
def test_a_step_takes_sizes_of_its_tensors(at, value):
    arguments = step_arguments()
    arguments["sizes"][at] = value
    with pytest.raises(RuntimeError, match="sizes must be 1 to"):
        run(arguments)
    with pytest.raises(RuntimeError, match="sizes must be 1 to"):
        torch.ops.ussfast._trunk_step_floats(arguments["sizes"], 3, 2)


@pytest.mark.parametrize("items, sources", [(0, 2), (-1, 2), (3, 0), (2**62, 2), (3, 2**62)])
def test_the_memory_of_a_step_is_of_some_items(items, sources):
    with pytest.raises(RuntimeError, match="items of"):
        torch.ops.ussfast._trunk_step_floats(step_arguments()["sizes"], items, sources)


@pytest.mark.parametrize("which", ["work", "state", "modulation"])
def test_a_step_takes_tensors_of_its_sizes(which):
    for at in range(len(step_arguments()[which])):
        for change in (lambda t: t[:0], lambda t: torch.cat((t, t)), lambda t: t.to("meta"), lambda t: t.double()):
            arguments = step_arguments()
            arguments[which] = list(arguments[which])
            arguments[which][at] = change(arguments[which][at])
            with pytest.raises(RuntimeError):
                run(arguments)


@pytest.mark.parametrize(
    "change",
    [{"count": 2**62}, {"count": 1000}, {"count": -1}, {"start": -1}, {"start": 2**62}, {"phase": 3}, {"phase": -1}]
    + [{"up": 0}, {"down": -1}, {"up": 2**62}, {"down": 2**62}],
    ids=str,
)
def test_resampling_stays_inside_its_input(change):
    sizes = {"start": 0, "phase": 1, "up": 3, "down": 2, "count": 20} | change
    with pytest.raises(RuntimeError, match="_resample"):
        torch.ops.ussfast._resample(torch.randn(2, 64), torch.randn(5, 16), *sizes.values())


@pytest.mark.parametrize("hop, frames", [(2**62, 3), (2**61, 2**3 + 1), (1, 2**62), (2**32, 2**32 + 1)])
def test_frames_stay_inside_their_ring(hop, frames):
    ring, begin, window = torch.randn(1, 64), torch.zeros(1, dtype=torch.int64), torch.ones(16)
    with pytest.raises(RuntimeError, match="framed_stft"):
        torch.ops.ussfast.framed_stft(ring, begin, window, 16, hop, frames)


@pytest.mark.parametrize("bands", [[0, 8], [-1, 9], [2**62, 2**62], [8, 2**24 + 1], []])
def test_bands_are_of_some_width(bands):
    with pytest.raises(RuntimeError, match="band"):
        torch.ops.ussfast.band_tokens(torch.randn(1, 2, 8, 3), torch.randn(8 * 3 * 4), bands, 4, "float32")
