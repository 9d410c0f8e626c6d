"""Beginning with what another model has in common with the new one."""

from dataclasses import replace

import pytest
import torch
from running import exactly
from tiny import CAUSAL, PROMPTS, STACK, TUSS, UNCONDITIONAL

from ussfast.errors import InputError
from ussfast.models import build
from ussfast.train.initial import initialise


def fresh(config, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


def test_a_tuss_begins_with_its_twin():
    tuss, twin = fresh(TUSS, 0), fresh(UNCONDITIONAL, 1)
    before = {name: value.clone() for name, value in tuss.state_dict().items()}
    copied = initialise(tuss, twin, "twin")
    exactly(tuss.encoder.state_dict(), twin.encoder.state_dict())
    exactly(tuss.cross_prompt.state_dict(), twin.first.state_dict())
    exactly(tuss.extraction.state_dict(), twin.second.state_dict())
    exactly(tuss.decoder.weight2, twin.decoder.weight2)
    # One source in place of three: the last layers differ in shape, and prompts there are none.
    for name in ("prompts", "sos", "decoder.weights3.0"):
        exactly(tuss.state_dict()[name], before[name])
    parameters = dict(tuss.named_parameters())
    kept = ["prompts", "sos", *(n for n in parameters if n.startswith(("decoder.weights3", "decoder.biases3")))]
    assert copied.tensors == len(parameters) - len(kept) and copied.of_tensors == len(parameters)
    assert copied.numbers == sum(v.numel() for n, v in parameters.items() if n not in kept)
    assert copied.rest == ("prompts", "sos", "decoder")
    assert str(copied).endswith("at random all or parts of prompts, sos, decoder")


def test_a_tuss_of_other_prompts_or_more_blocks_begins_with_a_tuss():
    small = fresh(TUSS, 0)
    large = fresh(replace(TUSS, prompts=PROMPTS[:3], extraction=replace(STACK, blocks=2)), 1)
    initialise(large, small, "small")
    exactly(large.extraction.blocks[0].state_dict(), small.extraction.blocks[0].state_dict())
    exactly(large.decoder.state_dict(), small.decoder.state_dict())
    twin = fresh(UNCONDITIONAL, 2)
    assert initialise(twin, fresh(UNCONDITIONAL, 3), "other").rest == ()


def test_prompts_are_taken_from_a_model_that_knows_the_same_ones():
    target, before = fresh(TUSS, 0), fresh(TUSS, 0).prompts
    initialise(target, fresh(replace(TUSS, prompts=PROMPTS[::-1]), 1), "other")
    exactly(target.prompts, before)
    initialise(target, fresh(TUSS, 1), "other")
    exactly(target.prompts, fresh(TUSS, 1).prompts)


def test_nothing_in_common():
    with pytest.raises(InputError, match="DIR has nothing in common with the recipe's model"):
        initialise(fresh(TUSS, 0), fresh(CAUSAL, 0), "DIR")
