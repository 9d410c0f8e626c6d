"""The causal TUSS: offline, in chunks and hop by hop it is one model, and what comes later changes nothing."""

from dataclasses import replace

import pytest
import torch
from causal_models import HOP, MODELS, audio, close
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, PROMPTS, tiny_model

from ussfast import stft
from ussfast.errors import InputError, PromptError
from ussfast.models._packed import prepare
from ussfast.models.causal_step import initial_state, step
from ussfast.models.causal_tuss import CausalTussConfig, running_mean
from ussfast.ops import use_reference


def stepped(model, x, prompts):
    """What the hops in a row give for `x`, aligned with it."""
    late = model.config.latency_samples - HOP
    samples = x.shape[1]
    padded = torch.nn.functional.pad(x, (0, late + -(samples + late) % HOP))
    conditioning = model.condition(prompts)
    state, out = initial_state(model, len(x), prompts.shape[-2]), []
    for hop in padded.split(HOP, 1):
        y, state = step(model, hop, state, conditioning)
        out.append(y)
    return torch.cat(out, -1)[..., late : late + samples]


@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_hop_by_hop_is_the_same_as_offline(name, data):
    model = MODELS[name]
    batch = data.draw(st.integers(1, 2))
    x = audio(batch, data.draw(st.integers(2, 25 * HOP)), data.draw(st.integers(0, 9)))
    names = [
        tuple(data.draw(st.lists(st.sampled_from(PROMPTS), min_size=count, max_size=count)))
        for count in [data.draw(st.integers(1, 4))] * batch
    ]
    with torch.inference_mode():
        prompts = torch.stack([model.prompt_vectors(n) for n in names])
        close(stepped(model, x, prompts), model.separate(x, prompts))


@pytest.mark.parametrize("name", MODELS)
@given(chunks=st.lists(st.integers(1, 17), min_size=1, max_size=6), seed=st.integers(0, 9))
@settings(max_examples=10, deadline=None)
def test_chunks_of_any_size_are_the_same_as_offline(name, chunks, seed):
    model = MODELS[name]
    ahead = model.config.look_ahead
    with torch.inference_mode():
        spec = stft.analyze(audio(2, (sum(chunks) + ahead) * HOP, seed), model.config.stft)[:, : sum(chunks)]
        prompts = model.prompt_vectors(("speech", "speech", "bass"))
        conditioning, state, parts = model.condition(prompts), model.initial_chunk(2), []
        for part in spec.split(chunks, 1):
            masks, state = model.advance(part, conditioning, state)
            parts.append(masks)
        whole = model(spec, prompts)
    kept = sum(chunks) - ahead
    if kept > 0:
        close(torch.cat(parts, 2)[:, :, ahead:], whole[:, :, :kept])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_native_kernels_agree_with_the_reference(precision):
    model = tiny_model(CAUSAL).eval()
    prepare(model, precision)
    x, prompts = audio(2, 3000), model.prompt_vectors(("speech", "sfx")).detach()
    with torch.inference_mode():
        native = model.separate(x, prompts)
        with use_reference():
            # Rounding that falls the other way is amplified by what follows.
            close(native, model.separate(x, prompts), 1e-4 if precision == "float32" else 2e-2)


@pytest.mark.parametrize("name", ["default", "look-ahead"])
def test_later_input_changes_nothing_before_the_latency(name):
    model = MODELS[name]
    x, at = audio(1, 30 * HOP), 17 * HOP
    other = x.clone()
    other[:, at:] = torch.randn(other[:, at:].shape)
    with torch.inference_mode():
        prompts = model.prompt_vectors(("speech", "drums"))
        a, b = model.separate(x, prompts), model.separate(other, prompts)
    # An output sample needs no input that comes `latency_samples` or more after it.
    safe = at - model.config.latency_samples
    torch.testing.assert_close(a[..., :safe], b[..., :safe], rtol=0, atol=0)
    assert (a[..., at:] - b[..., at:]).abs().max() > 1e-3
    assert (a[..., safe + HOP : at] - b[..., safe + HOP : at]).abs().max() > 1e-5, "the latency is stated too high"


def test_latency_counts_the_look_ahead():
    assert CAUSAL.latency_samples == 2 * HOP
    assert replace(CAUSAL, look_ahead=3).latency_samples == 5 * HOP


def test_what_left_the_window_is_forgotten():
    """Two pasts that differ long ago: the attention and the convolutions no longer tell them apart."""
    model = MODELS["default"]
    x, old = audio(1, 120 * HOP), 20 * HOP
    other = x.clone()
    other[:, :old] = audio(1, old, seed=5)
    reach = model.config.window_frames + 2 + 4  # per block: attention, and two causal convolutions of three taps
    reach = old // HOP + reach * model.config.stack.blocks + 8
    with torch.inference_mode():
        prompts = model.prompt_vectors(("speech", "drums"))
        a, b = model.separate(x, prompts), model.separate(other, prompts)
        # The running level is the same up to a factor that decays exponentially.
        close(a[..., reach * HOP :], b[..., reach * HOP :], 1e-2)
    assert (a[..., : old] - b[..., : old]).abs().max() > 1e-2 * a.abs().max()


def test_prompts_have_no_order_and_equal_ones_differ():
    model = MODELS["default"]
    x = audio(1, 20 * HOP)
    with torch.inference_mode():
        forth = model.separate(x, model.prompt_vectors(("speech", "drums", "sfx")))
        back = model.separate(x, model.prompt_vectors(("sfx", "drums", "speech")))
        twice = model.separate(x, model.prompt_vectors(("speech", "speech")))
    close(back.flip(1), forth, 1e-5)
    assert (twice[:, 0] - twice[:, 1]).abs().max() > 1e-2 * twice.abs().max()


def test_level_and_prompt_length_do_not_matter():
    model = MODELS["default"]
    x = audio(1, 20 * HOP)
    with torch.inference_mode():
        prompts = model.prompt_vectors(("speech", "drums"))
        plain = model.separate(x, prompts)
        close(model.separate(x * 8, prompts) / 8, plain, 2e-2)  # a floor keeps silence quiet, and shows a little here
        close(model.separate(x, prompts * 3), plain, 1e-4)


def test_a_batch_may_have_prompts_of_its_own_or_share_them():
    model = MODELS["default"]
    x = audio(2, 10 * HOP)
    with torch.inference_mode():
        shared = model.prompt_vectors(("speech", "drums"))
        close(model.separate(x, shared), model.separate(x, shared.expand(2, -1, -1)), 1e-6)
        one = torch.cat([model.separate(x[i : i + 1], shared) for i in range(2)])
        close(model.separate(x, shared), one, 1e-5)


def test_the_conditioning_is_computed_once_and_the_state_is_not_changed():
    model = MODELS["default"]
    with torch.inference_mode():
        conditioning = model.condition(model.prompt_vectors(("speech", "drums")))
        state = initial_state(model, 1, 2)
        hops = audio(1, 6 * HOP).split(HOP, 1)
        for hop in hops[:4]:
            _, state = step(model, hop, state, conditioning)
        first, after = step(model, hops[4], state, conditioning)
        again, after_again = step(model, hops[4], state, conditioning)
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        torch.testing.assert_close(after.overlap, after_again.overlap, rtol=0, atol=0)


def test_everything_is_trained():
    model = tiny_model(CAUSAL).train()
    x = audio(2, 3000)
    queries = model.embed(audio(2, 2500, seed=3))
    prompts = torch.stack((model.prompt_vectors(("speech", "speech")), queries))
    model.separate(x, prompts).square().mean().backward()
    # The prompts that nobody asked for have a gradient of zero, as part of one tensor.
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_query_vectors_do_not_depend_on_level_or_batch():
    model = tiny_model(CAUSAL).eval()
    clips = audio(3, 2600)
    with torch.inference_mode():
        vectors = model.embed(clips)
        assert vectors.shape == (3, CAUSAL.stack.dim)
        close(model.embed(clips * 0.01), vectors, 1e-3)
        close(model.embed(clips[1:2]), vectors[1:2], 1e-5)
        assert (vectors[0] - vectors[1]).abs().max() > 1e-3


@given(
    values=st.lists(st.floats(0, 100), min_size=1, max_size=30),
    cut=st.integers(0, 30),
    limit=st.integers(1, 12),
)
@settings(max_examples=40, deadline=None)
def test_running_mean(values, cut, limit):
    expected, mean = [], 0.0
    for number, value in enumerate(values, 1):
        mean += (value - mean) / min(number, limit)
        expected.append(mean)
    x = torch.tensor([values], dtype=torch.float64)
    parts, last, seen = [], torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    for part in (x[:, :cut], x[:, cut:]):
        if part.shape[1]:
            parts.append(running_mean(part, last, seen, limit))
            last, seen = parts[-1][:, -1], seen + part.shape[1]
    torch.testing.assert_close(torch.cat(parts, 1)[0], torch.tensor(expected, dtype=torch.float64))


def test_without_causality_there_is_only_the_whole():
    config = replace(CAUSAL, causal=False, sfc=replace(CAUSAL.sfc, encoder_time="both"))
    model = tiny_model(config).eval()
    x, prompts = audio(1, 20 * HOP), model.prompt_vectors(("speech",)).detach()
    other = x.clone()
    other[:, 15 * HOP :] *= 3
    with torch.inference_mode():
        a, b = model.separate(x, prompts), model.separate(other, prompts)
        assert (a - b)[..., : 5 * HOP].abs().max() > 1e-4, "early output must see late input"
        with pytest.raises(InputError, match="not causal"):
            stepped(model, x, prompts)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompts": ()}, "at least one"),
        ({"stft": replace(CAUSAL.stft, hop=32)}, "2 hop"),
        ({"stft": replace(CAUSAL.stft, padding="reflect")}, "padding zero"),
        ({"sfc": replace(CAUSAL.sfc, encoder_time="both")}, "encoder_time past or none"),
        ({"sfc": replace(CAUSAL.sfc, decoder_time="past")}, "decoder_time none"),
        ({"sfc": replace(CAUSAL.sfc, query="adaptive")}, "query learnable"),
        ({"window_seconds": 0.001}, "two frames"),
        ({"look_ahead": -1}, "look_ahead >= 0"),
        ({"causal": False, "look_ahead": 1}, "look_ahead is for causal"),
        ({"stack": replace(CAUSAL.stack, norm="layer_norm")}, "rms_group_norm"),
    ],
)
def test_configurations_that_cannot_be(change, said):
    with pytest.raises(InputError, match=said):
        replace(CAUSAL, **change)


def test_bad_calls_are_named():
    model = MODELS["default"]
    assert isinstance(model.config, CausalTussConfig)
    with pytest.raises(PromptError, match="speech"):
        model.prompt_vectors(("speach",))
    with pytest.raises(PromptError, match="needs prompts"):
        model.separate(audio(1, 500), None)
    conditioning = model.condition(model.prompt_vectors(("speech",)))
    with pytest.raises(InputError, match=r"\[1, 64\]"):
        step(model, torch.zeros(1, HOP + 1), initial_state(model, 1, 1), conditioning)
