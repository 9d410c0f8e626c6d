"""Live cores around tiny models that are not causal, for the tests of sliding windows."""

import numpy as np
import torch
from tiny import STEREO, TUSS, UNCONDITIONAL, tiny_model

from ussfast import Separator
from ussfast.long_audio.policy import live_policy
from ussfast.prompts.bank import equal_groups
from ussfast.streaming.sliding import SlidingCore

POLICY = live_policy(2.0, 0.1, segment=0.4)
SEPARATORS = {
    "tuss": Separator.from_model(tiny_model(TUSS), ("speech", "sfx", "sfx"), device="cpu"),
    "unconditional": Separator.from_model(tiny_model(UNCONDITIONAL), device="cpu"),
    "stereo": Separator.from_model(tiny_model(STEREO), device="cpu"),
}
for separator in SEPARATORS.values():
    separator.policy = POLICY


def asking(names):
    """Vectors and groups of the TUSS."""
    return torch.stack([SEPARATORS["tuss"].prompts[name].vector for name in names]), equal_groups(names)


def make(kind="tuss", channels=2, names=("speech", "sfx", "sfx"), slots=(0, 1, 2), slot_count=3, policy=POLICY):
    engine = SEPARATORS[kind].engine
    if kind != "tuss":
        return SlidingCore(engine, policy, channels, slot_count, None, slots, ((0, 1, 2),))
    vectors, groups = asking(names)
    return SlidingCore(engine, policy, channels, slot_count, vectors, slots, groups)


def streamed(core, audio, chunks):
    """Everything that comes out; chunks are taken in turns."""
    parts, at, turn = [], 0, 0
    while at < audio.shape[1]:
        chunk = chunks[turn % len(chunks)]
        parts.append(core.push(audio[:, at : at + chunk]))
        at, turn = at + chunk, turn + 1
    return np.concatenate([*parts, core.flush()], -1)
