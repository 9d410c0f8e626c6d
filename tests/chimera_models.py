"""Small ChimeraNets: the recorded one, and others with random weights."""

from dataclasses import replace
from functools import cache

import torch
from golden_io import weights

from ussfast.checkpoints.store import fill
from ussfast.models.chimera import Chimera, ChimeraConfig
from ussfast.stft import StftConfig

STFT = StftConfig(128, 32, 128, normalize="window")
CONFIG = ChimeraConfig(8000, STFT, hidden=12, layers=2, embedding=5)


@cache
def tiny() -> Chimera:
    state = {}
    for key, value in weights("chimera_tiny").items():
        for theirs, ours in (("recurrent_stack.", ""), (".linear", ""), ("normalization.batch_norm", "norm")):
            key = key.replace(theirs, ours)
        if key.startswith("layers."):
            state[key.removeprefix("layers.")] = value
    return fill(CONFIG, state, "chimera_tiny")


def random_chimera(seed: int = 0, **changes) -> Chimera:
    """One with other settings than CONFIG, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Chimera(replace(CONFIG, **changes)).eval()
