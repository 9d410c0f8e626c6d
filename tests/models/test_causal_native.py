"""The native step is the reference step: same samples, same state, in place."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from causal_models import CONFIGS, HOP, audio
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, PROMPTS, tiny_model

from ussfast import checkpoint
from ussfast._ext import cpu_isa
from ussfast.errors import InputError
from ussfast.models.causal_native import NativeStep, condition, supported
from ussfast.models.causal_step import StreamState, initial_state, step
from ussfast.models.causal_tuss import Conditioning
from ussfast.nested import copied, like, tensors_of
from ussfast.ops import use_reference

# Without the C++ extension there is no native step.
pytestmark = pytest.mark.skipif(cpu_isa() is None, reason="the C++ extension is not loaded")

ODD = replace(
    CAUSAL,
    sfc=replace(CAUSAL.sfc, dim=12, heads=3, ffn=2),
    stack=replace(CAUSAL.stack, dim=20, groups=5, heads=2, attention_dim=12),
    window_seconds=0.3,  # longer than several vectors, and no multiple of them
)
MODELS = {
    name: tiny_model(config).eval()
    for name, config in (CONFIGS | {"odd widths": ODD}).items()
    if config.encoder == "sfc"
}


def tensors(x):
    return list(tensors_of(x).values())


def changed(x, change):
    return like(x, {name: change(tensor) for name, tensor in tensors_of(x).items()})


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    if a.numel():
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6)


def padded(model, asked):
    """Conditioning of items with different numbers of prompts, as a batch: what is beyond an item's own is noise."""
    most, parts = max(map(len, asked)), []
    for names in asked:
        c = model.condition(model.prompt_vectors(names))
        more = most - len(names)

        def fill(t, axis, more=more):
            noise = torch.full((*t.shape[:axis], more, *t.shape[axis + 1 :]), 3.0)
            return torch.cat((t, noise), axis)

        prefix = tuple(type(p)(fill(p.rows, 1), fill(p.keys, 3), fill(p.values, 2)) for p in c.prefix)
        parts.append(Conditioning(prefix, fill(c.scale, 1), fill(c.shift, 1), c.count))
    columns = [tensors(part) for part in parts]
    joined = iter([torch.cat(column) for column in zip(*columns, strict=True)])
    return changed(parts[0], lambda _: next(joined))


@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_steps_are_those_of_the_reference(name, data):
    model = MODELS[name]
    items, channels = data.draw(st.integers(1, 3)), data.draw(st.sampled_from((1, 1, 2)))
    names = st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=4).map(tuple)
    shared = data.draw(st.booleans())
    with torch.inference_mode():
        asked = [data.draw(names)] if shared else [data.draw(names) for _ in range(items)]
        conditioning, sources = padded(model, asked), max(map(len, asked))
        # Items of different ages: some go on alone before they all go along.
        state = initial_state(model, items, sources, channels)
        native = NativeStep(model, copied(state), sources)
        hops = audio(items * channels, 2 * model.config.window_frames * HOP, data.draw(st.integers(0, 9)))
        for number, hop in enumerate(hops.split(HOP, 1)):
            if number == 3:
                older = torch.tensor([3 + data.draw(st.integers(0, 90)) for _ in range(items)])
                state.frames.front.seen.copy_(older)
                native.state.frames.front.seen.copy_(older)
            expected, state = step(model, hop, state, conditioning)
            out = native.step(hop, conditioning)
            for item in range(items):
                rows, own = slice(item * channels, (item + 1) * channels), len(asked[0 if shared else item])
                close(out[rows, :own], expected[rows, :own])
                assert not out[rows, own:].any()
        torch.testing.assert_close(native.state.frames.front.seen, state.frames.front.seen)
        for mine, theirs in zip(tensors(native.state.frames), tensors(state.frames), strict=True):
            close(mine, theirs, 1e-4)


@pytest.mark.parametrize("name", ["default", "look-ahead"])
def test_a_saved_state_goes_on_bit_for_bit_and_memory_stays_where_it_is(name):
    model = MODELS[name]
    with torch.inference_mode():
        conditioning = model.condition(model.prompt_vectors(("speech", "drums")))
        native = NativeStep(model, initial_state(model, 2, 3), 3)
        hops = audio(2, 60 * HOP).split(HOP, 1)
        places = {t.data_ptr() for t in tensors(native.state)}
        for hop in hops[:31]:
            out = native.step(hop, conditioning)
        other = NativeStep(model, copied(native.state), 3)
        for hop in hops[31:]:
            torch.testing.assert_close(native.step(hop, conditioning), other.step(hop, conditioning), rtol=0, atol=0)
        assert native.step(hops[0], conditioning).data_ptr() == out.data_ptr()
        assert {t.data_ptr() for t in tensors(native.state)} == places


def test_steps_do_not_grow():
    # A process of its own: only there does the peak of memory belong to the steps.
    code = """
import resource, torch
from tiny import CAUSAL, tiny_model
from ussfast.models.causal_native import NativeStep
from ussfast.models.causal_step import initial_state
model = tiny_model(CAUSAL).eval()
with torch.inference_mode():
    native = NativeStep(model, initial_state(model, 2, 2), 2)
    conditioning = model.condition(model.prompt_vectors(("speech", "sfx")))
    for number in range(4000):
        if number == 1000:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        native.step(torch.randn(2, 64), conditioning)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    folder = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((folder, *sys.path))}
    run = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True)
    assert int(run.stdout) < 300, "KiB in 3000 steps: a leak of 100 bytes per step shows"


def test_prompts_may_change_and_become_fewer():
    model = MODELS["default"]
    with torch.inference_mode():
        first, second = (
            model.condition(model.prompt_vectors(names)) for names in (("speech", "drums"), ("sfx", "bass"))
        )
        one = model.condition(model.prompt_vectors(("bass",)))
        state = initial_state(model, 1, 2)
        native = NativeStep(model, copied(state), 2)
        hops = audio(1, 30 * HOP).split(HOP, 1)
        for number, hop in enumerate(hops[:20]):
            conditioning = first if number < 10 else second
            expected, state = step(model, hop, state, conditioning)
            close(native.step(hop, conditioning), expected)
        left = native.state.overlap[:, 1].clone()
        assert left.any()
        faded = native.step(hops[20], one)[:, 1]
        close(faded, left)  # divided by the sum of the squared windows, which is 1
        assert not native.step(hops[21], one)[:, 1].any()


def test_some_items_go_on_while_others_wait():
    model = MODELS["look-ahead"]
    with torch.inference_mode():
        conditioning = padded(model, [("speech",), ("sfx", "bass"), ("drums", "speech", "other")])
        native = NativeStep(model, initial_state(model, 3, 3, 2), 3)
        alone = [NativeStep(model, initial_state(model, 1, 3, 2), 3) for _ in range(3)]
        rng = torch.Generator().manual_seed(1)
        for items in ([0, 1, 2], [2], [2, 0], [1], [0, 2], [2, 1, 0], [1, 2], [0, 1, 2]) * 4:
            hop = torch.randn(2 * len(items), HOP, generator=rng)
            out = native.step(hop, conditioning, items)
            for place, item in enumerate(items):
                own = changed(conditioning, lambda t, item=item: t[item : item + 1])
                rows = slice(2 * place, 2 * place + 2)
                close(out[rows], alone[item].step(hop[rows], own))
        assert native.state.frames.front.seen.tolist() == [20, 20, 28]


def test_silence_and_the_smallest_numbers_stay_finite():
    model = MODELS["default"]
    with torch.inference_mode():
        conditioning = model.condition(model.prompt_vectors(("speech", "drums")))
        native = NativeStep(model, initial_state(model, 1, 2), 2)
        for hop in (torch.zeros(1, HOP), torch.full((1, HOP), 1e-42), torch.ones(1, HOP), torch.zeros(1, HOP)):
            assert native.step(hop, conditioning).isfinite().all()


def test_the_number_of_threads_changes_no_bit():
    model, before, outs = MODELS["two feed-forward layers"], torch.get_num_threads(), []
    try:
        with torch.inference_mode():
            conditioning = model.condition(model.prompt_vectors(("speech", "drums")))
            for threads in (1, 3):
                torch.set_num_threads(threads)
                # More positions than one block of the time path has.
                native = NativeStep(model, initial_state(model, 20, 2), 2)
                outs.append([native.step(hop, conditioning).clone() for hop in audio(20, 12 * HOP).split(HOP, 1)])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*outs, rtol=0, atol=0)


def test_the_embedded_default_for_two_hundred_hops():
    model = checkpoint.load_model(checkpoint.resolve("default"))[0].eval()
    assert supported(model)
    with torch.inference_mode():
        conditioning = model.condition(model.prompt_vectors(("speech", "sfx")))
        state = initial_state(model, 1, 2)
        native = NativeStep(model, copied(state), 2)
        rng = torch.Generator().manual_seed(0)
        for _ in range(200):
            hop = 0.1 * torch.randn(1, model.config.stft.hop, generator=rng)
            expected, state = step(model, hop, state, conditioning)
            close(native.step(hop, conditioning), expected, 1e-4)


def test_sessions_share_packed_weights_until_these_may_be_old():
    model = tiny_model(CAUSAL).eval()
    with torch.inference_mode():
        natives = [NativeStep(model, initial_state(model, 1, 1), 1) for _ in range(2)]
    assert natives[0]._weights is natives[1]._weights
    model.load_state_dict(tiny_model(CAUSAL, seed=1).state_dict())
    with torch.inference_mode():
        conditioning = model.condition(model.prompt_vectors(("speech",)))
        hop, state = audio(1, HOP), initial_state(model, 1, 1)
        close(NativeStep(model, copied(state), 1).step(hop, conditioning), step(model, hop, state, conditioning)[0])


def test_a_state_of_the_reference_goes_on():
    model = MODELS["look-ahead"]
    with torch.inference_mode():
        conditioning = model.condition(model.prompt_vectors(("speech",)))
        state = initial_state(model, 1, 1)
        hops = audio(1, 12 * HOP).split(HOP, 1)
        for hop in hops[:6]:
            _, state = step(model, hop, state, conditioning)
        native = NativeStep(model, copied(state), 1)
        for hop in hops[6:]:
            expected, state = step(model, hop, state, conditioning)
            close(native.step(hop, conditioning), expected)


def test_what_is_not_supported_is_said():
    assert not supported(tiny_model(CONFIGS["band split"]))
    assert not supported(tiny_model(CAUSAL).double())
    model = MODELS["default"]
    with use_reference():
        assert not supported(model)
        with pytest.raises(InputError, match="C\\+\\+ extension"):
            NativeStep(model, initial_state(model, 1, 1), 1)
    with pytest.raises(InputError, match="state of 2 sources"):
        NativeStep(model, initial_state(model, 1, 1), 2)


def test_bad_calls_are_named():
    model = MODELS["default"]
    with torch.inference_mode():
        one, two = (model.condition(model.prompt_vectors(names)) for names in (("speech",), ("speech", "sfx")))
        state: StreamState = initial_state(model, 2, 1)
        native = NativeStep(model, state, 1)
        with pytest.raises(InputError, match=r"\[2, 64\]"):
            native.step(torch.zeros(1, HOP), one)
        with pytest.raises(InputError, match="float64"):
            native.step(torch.zeros(2, HOP, dtype=torch.float64), one)
        with pytest.raises(InputError, match="2 prompts"):
            native.step(torch.zeros(2, HOP), two)
        for items in ([0, 0], [2, 1], [-1, 0]):
            with pytest.raises(InputError, match="each once"):
                native.step(torch.zeros(2, HOP), one, items)
        with pytest.raises(InputError, match="each once"):
            native.step(torch.zeros(0, HOP), one, [])


@pytest.mark.parametrize("name", MODELS)
@given(names=st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=9))
@settings(max_examples=8, deadline=None)
def test_conditioning_is_that_of_the_reference(name, names):
    model = MODELS[name]
    with torch.inference_mode():
        vectors = model.prompt_vectors(tuple(names))
        ours, expected = condition(model, vectors), model.condition(vectors)
    for a, b in zip(tensors(ours), tensors(expected), strict=True):
        assert a.dtype == b.dtype and a.is_contiguous()
        close(a, b)
