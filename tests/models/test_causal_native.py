"""The native step of the causal model is the plain one: same samples, same state, in place."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from causal_models import HOP, MODELS, audio
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, PROMPTS, tiny_model

from ussfast import demo
from ussfast._ext import cpu_isa
from ussfast.audio import read
from ussfast.engine.nested import copied, like, tensors_of
from ussfast.errors import InputError
from ussfast.evaluate.metrics import si_sdr
from ussfast.models import build
from ussfast.models.causal import Modulation
from ussfast.models.causal.hop import initial_state, step
from ussfast.models.causal.step import TrunkStep, fastest, supported
from ussfast.ops import use_reference
from ussfast.train.recipe import load_recipe

# Without the C++ extension there is no native step.
pytestmark = pytest.mark.skipif(cpu_isa() is None, reason="the C++ extension is not loaded")

NAMES = st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=4).map(tuple)


def tensors(x):
    return list(tensors_of(x).values())


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    if a.numel():
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6)


def condition(model, *names):
    return model.condition(model.prompt_vectors(names))


def padded(model, asked):
    """The modulation of items with different numbers of prompts: what is beyond an item's own is no number."""
    most, parts = max(map(len, asked)), []
    for names in asked:
        one = condition(model, *names)
        nothing = torch.full((1, most - len(names), *one.scale.shape[2:]), float("nan"))
        scale, shift = (torch.cat((t, nothing), 1) for t in (one.scale, one.shift))
        parts.append(Modulation(scale, shift, one.count))
    return Modulation(*(torch.cat(column) for column in zip(*map(tensors, parts), strict=True)))


@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_steps_are_those_of_the_plain_model(name, data):
    """Prompts change at any frame, to more or fewer; every item has its own."""
    model = MODELS[name]
    items, channels = data.draw(st.sampled_from((1, 2, 3, 6))), data.draw(st.sampled_from((1, 1, 2)))
    with torch.inference_mode():
        state = initial_state(model, items, 4, channels)
        native = TrunkStep(model, copied(state), 4)
        hops = iter(audio(items * channels, 12 * HOP, data.draw(st.integers(0, 9))).split(HOP, 1))
        for length in (1, 5, 6):
            asked = [data.draw(NAMES) for _ in range(items)]
            modulation = padded(model, asked)
            counts = [len(names) for names in asked for _ in range(channels)]
            for _ in range(length):
                hop = next(hops)
                # The plain step knows one number of prompts for all items: sources beyond an item's own are cut off.
                plain = replace(state, overlap=state.overlap[:, : max(counts)])
                expected, after = step(model, hop, plain, modulation)
                out = native.step(hop, modulation)
                late = torch.zeros_like(state.overlap)
                for row, count in enumerate(counts):
                    close(out[row, :count], expected[row, :count])
                    close(out[row, count:], state.overlap[row, count:])  # divided by a sum of squared windows of 1
                    late[row, :count] = after.overlap[row, :count]
                state = replace(after, overlap=late)
        for mine, theirs in zip(tensors(native.state), tensors(state), strict=True):
            close(mine, theirs, 1e-4)


@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_some_items_go_on_while_others_wait(name, data):
    model = MODELS[name]
    with torch.inference_mode():
        modulation = padded(model, [data.draw(NAMES) for _ in range(5)])
        native = TrunkStep(model, initial_state(model, 5, 4, 2), 4)
        alone = [TrunkStep(model, initial_state(model, 1, 4, 2), 4) for _ in range(5)]
        for number in range(12):
            items = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
            hop = audio(2 * len(items), HOP, number)
            out = native.step(hop, modulation, items)
            for place, item in enumerate(items):
                own = like(modulation, {n: t[item : item + 1] for n, t in tensors_of(modulation).items()})
                rows = slice(2 * place, 2 * place + 2)
                close(out[rows], alone[item].step(hop[rows], own))


def test_the_sizes_of_the_default():
    torch.manual_seed(0)
    model = build(load_recipe("default").model).eval()
    with torch.inference_mode():
        modulation, state = condition(model, "speech", "sfxbg"), initial_state(model, 1, 2)
        native = TrunkStep(model, copied(state), 2)
        assert sum(t.numel() * t.element_size() for t in tensors(native.state)) <= 256 * 1024
        for hop in audio(1, 60 * model.config.stft.hop).split(model.config.stft.hop, 1):
            expected, state = step(model, hop, state, modulation)
            close(native.step(hop, modulation), expected, 1e-4)


def test_bfloat16_products_stay_40_db_below_the_sound():
    torch.manual_seed(0)
    model = build(load_recipe("default").model).eval()
    mixture, rate = read(demo.HERE / "mixture.flac")
    assert rate == model.config.sample_rate
    hop = model.config.stft.hop
    with torch.inference_mode():
        modulation = condition(model, "speech", "sfxbg")
        exact, rough = (TrunkStep(model, initial_state(model, 1, 2), 2, p) for p in ("float32", "bfloat16"))
        hops = torch.from_numpy(mixture[:1, : 200 * hop]).split(hop, 1)
        pairs = [(exact.step(x, modulation).clone(), rough.step(x, modulation).clone()) for x in hops]
    a, b = (torch.cat(part, -1)[0].numpy() for part in zip(*pairs, strict=True))
    assert all(40 <= si_sdr(ours, theirs) < 120 for ours, theirs in zip(b, a, strict=True))


def test_a_saved_state_goes_on_bit_for_bit_and_memory_stays_where_it_is():
    model = MODELS["default"]
    with torch.inference_mode():
        modulation = condition(model, "speech", "drums")
        native = TrunkStep(model, initial_state(model, 2, 3), 3)
        hops = audio(2, 40 * HOP).split(HOP, 1)
        places = {t.data_ptr() for t in tensors(native.state)}
        for hop in hops[:21]:
            out = native.step(hop, modulation)
        other = TrunkStep(model, copied(native.state), 3)
        for hop in hops[21:]:
            torch.testing.assert_close(native.step(hop, modulation), other.step(hop, modulation), rtol=0, atol=0)
        assert native.step(hops[0], modulation).data_ptr() == out.data_ptr()
        assert {t.data_ptr() for t in tensors(native.state)} == places


def test_states_of_both_steps_go_on_in_the_other():
    model = MODELS["odd widths"]
    with torch.inference_mode():
        modulation, state = condition(model, "speech"), initial_state(model, 1, 1)
        always, hops = TrunkStep(model, copied(state), 1), audio(1, 18 * HOP).split(HOP, 1)
        for hop in hops[:6]:
            expected, state = step(model, hop, state, modulation)
            close(always.step(hop, modulation), expected)
        native = TrunkStep(model, copied(state), 1)
        for hop in hops[6:12]:
            close(native.step(hop, modulation), always.step(hop, modulation))
        state = native.state
        for hop in hops[12:]:
            expected, state = step(model, hop, state, modulation)
            close(always.step(hop, modulation), expected)


def test_steps_do_not_grow():
    # A process of its own: only there does the peak of memory belong to the steps.
    code = """
import resource, torch
from tiny import CAUSAL, tiny_model
from ussfast.models.causal.step import TrunkStep
from ussfast.models.causal.hop import initial_state
model = tiny_model(CAUSAL).eval()
with torch.inference_mode():
    native = TrunkStep(model, initial_state(model, 2, 2), 2)
    modulation = model.condition(model.prompt_vectors(("speech", "sfx")))
    for number in range(4000):
        if number == 1000:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        native.step(torch.randn(2, 64), modulation)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), *sys.path))}
    run = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True)
    assert int(run.stdout) < 300, "KiB in 3000 steps: a leak of 100 bytes per step shows"


def test_silence_and_the_smallest_numbers_stay_finite():
    model = MODELS["default"]
    with torch.inference_mode():
        modulation, native = condition(model, "speech", "drums"), TrunkStep(model, initial_state(model, 1, 2), 2)
        for hop in (torch.zeros(1, HOP), torch.full((1, HOP), 1e-42), torch.ones(1, HOP), torch.zeros(1, HOP)):
            assert native.step(hop, modulation).isfinite().all()


def test_the_number_of_threads_changes_no_bit():
    model, before, outs = MODELS["default"], torch.get_num_threads(), []
    try:
        with torch.inference_mode():
            modulation = condition(model, "speech", "drums")
            for threads in (1, 3):
                torch.set_num_threads(threads)
                # More items than one block of the trunk has.
                native = TrunkStep(model, initial_state(model, 10, 2), 2)
                outs.append([native.step(hop, modulation).clone() for hop in audio(10, 8 * HOP).split(HOP, 1)])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*outs, rtol=0, atol=0)


def test_sessions_share_packed_weights_until_these_may_be_old():
    model = tiny_model(CAUSAL).eval()
    with torch.inference_mode():
        steps = [TrunkStep(model, initial_state(model, 1, 1), 1, p) for p in ("float32", "float32")]
    assert steps[0]._weights is steps[1]._weights
    model.load_state_dict(tiny_model(CAUSAL, seed=1).state_dict())
    with torch.inference_mode():
        modulation, hop, state = condition(model, "speech"), audio(1, HOP), initial_state(model, 1, 1)
        close(TrunkStep(model, copied(state), 1).step(hop, modulation), step(model, hop, state, modulation)[0])


def test_what_is_not_supported_is_said():
    assert not supported(tiny_model(CAUSAL).double())
    model, odd = MODELS["default"], MODELS["odd widths"]
    with use_reference():
        assert not supported(model)
        with pytest.raises(InputError, match="C\\+\\+ extension"):
            TrunkStep(model, initial_state(model, 1, 1), 1)
    with pytest.raises(InputError, match="state of 1 sources"):
        TrunkStep(model, initial_state(model, 1, 2), 1)
    for which, precision in ((model, "int8"), (odd, "bfloat16")):
        with pytest.raises(InputError, match=f"precision.*{precision}"):
            TrunkStep(which, initial_state(which, 1, 1), 1, precision)
    assert fastest(odd, "bfloat16") == fastest(model, "float32") == "float32"


def test_bad_calls_are_named():
    model = MODELS["default"]
    with torch.inference_mode():
        one, two = condition(model, "speech"), condition(model, "speech", "sfx")
        native = TrunkStep(model, initial_state(model, 2, 1), 1)
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
