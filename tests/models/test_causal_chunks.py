"""Recordings through a causal model chunk by chunk."""

from itertools import pairwise

import pytest
import torch
from causal_models import MODELS, audio, close
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.models.causal_chunks import CausalChunks


@pytest.mark.parametrize("name", MODELS)
@given(
    cuts=st.lists(st.sampled_from((0, 1, 63, 64, 65, 300, 1000)), max_size=6),
    samples=st.integers(1, 2500),
    frames=st.integers(1, 20),
    rows=st.integers(1, 2),
)
@settings(max_examples=10, deadline=None)
def test_blocks_of_a_recording_are_the_same_as_all_of_it(name, cuts, samples, frames, rows):
    model, x = MODELS[name], audio(rows, samples + 1)
    edges = sorted({0, *(cut for cut in cuts if cut <= samples), samples + 1})
    with torch.inference_mode():
        prompts = model.prompt_vectors(("speech", "speech", "bass"))
        chunks = CausalChunks(model, model.condition(prompts), frames)
        parts = [chunks.push(x[:, a:b]) for a, b in pairwise(edges)] + [chunks.flush()]
        close(torch.cat(parts, -1), model.separate(x, prompts))


def test_shared_masks_are_those_of_the_mean_of_the_channels():
    model, x = MODELS["default"], audio(2, 1500)
    with torch.inference_mode():
        conditioning = model.condition(model.prompt_vectors(("speech", "bass")))
        parts = {}
        for name, rows, shared in (("both", x, True), ("mean", x.mean(0, keepdim=True), False)):
            chunks = CausalChunks(model, conditioning, 4, shared)
            parts[name] = torch.cat((chunks.push(rows), chunks.flush()), -1)
    close(parts["both"].mean(0, keepdim=True), parts["mean"], 1e-5)
    with pytest.raises(ValueError, match="nothing was pushed"):
        CausalChunks(model, conditioning, 4).flush()
