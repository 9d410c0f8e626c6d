"""The causal model: offline, in chunks, hop by hop and in streams it is one model; prompts may change."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from causal_models import HOP, MODELS, audio, close
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, PROMPTS, RATE, STFT, noise, tiny_model

from ussfast import Separator
from ussfast.engine.advancing import Advancing
from ussfast.engine.chunks import CausalChunks
from ussfast.engine.nested import copied, tensors_of
from ussfast.errors import InputError, PromptError
from ussfast.models import build
from ussfast.models.causal.hop import initial_state, step
from ussfast.ops import use_reference
from ussfast.profiling.flops import model_flop
from ussfast.train.recipe import load_recipe

MODEL = MODELS["default"]
CUTS = st.lists(st.sampled_from((0, 1, 63, 64, 65, 300, 1000)), max_size=6)


def separator(*prompts):
    return Separator.from_model(tiny_model(CAUSAL), prompts, device="cpu", dtype="float32")


def stepped(model, x, prompts):
    """What the hops in a row give for `x`, aligned with it."""
    late = model.config.latency_samples - HOP
    samples = x.shape[1]
    padded = torch.nn.functional.pad(x, (0, late + -(samples + late) % HOP))
    modulation = model.condition(prompts)
    state, out = initial_state(model, len(x), prompts.shape[-2]), []
    for hop in padded.split(HOP, 1):
        y, state = step(model, hop, state, modulation)
        out.append(y)
    return torch.cat(out, -1)[..., late : late + samples]


@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_hop_by_hop_is_the_same_as_offline(name, data):
    model, batch = MODELS[name], data.draw(st.integers(1, 2))
    x = audio(batch, data.draw(st.integers(2, 25 * HOP)), data.draw(st.integers(0, 9)))
    count = data.draw(st.integers(1, 4))
    names = [data.draw(st.lists(st.sampled_from(PROMPTS), min_size=count, max_size=count)) for _ in range(batch)]
    with torch.inference_mode():
        prompts = torch.stack([model.prompt_vectors(tuple(each)) for each in names])
        close(stepped(model, x, prompts), model.separate(x, prompts))


@pytest.mark.parametrize("name", MODELS)
@given(cuts=CUTS, samples=st.integers(1, 2500), frames=st.integers(1, 20), rows=st.integers(1, 2))
@settings(max_examples=8, deadline=None)
def test_chunks_of_a_recording_are_the_same_as_all_of_it(name, cuts, samples, frames, rows):
    model, x = MODELS[name], audio(rows, samples + 1)
    edges = sorted({0, *(cut for cut in cuts if cut <= samples), samples + 1})
    with torch.inference_mode():
        prompts = model.prompt_vectors(("speech", "speech", "bass"))
        chunks = CausalChunks(Advancing(model), model.condition(prompts), frames)
        parts = [chunks.push(x[:, a:b]) for a, b in pairwise(edges)] + [chunks.flush()]
        close(torch.cat(parts, -1), model.separate(x, prompts))


def test_shared_masks_in_chunks_are_those_of_the_whole():
    x, prompts = audio(2, 1500), MODEL.prompt_vectors(("speech", "bass"))
    with torch.inference_mode():
        modulation = MODEL.condition(prompts)
        chunks = CausalChunks(Advancing(MODEL), modulation, 4, shared=True)
        both = torch.cat((chunks.push(x), chunks.flush()), -1)
        close(both, MODEL.separate(x[None], prompts)[0].transpose(0, 1), 1e-5)
    with pytest.raises(ValueError, match="nothing was pushed"):
        CausalChunks(Advancing(MODEL), modulation, 4).flush()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_native_kernels_agree_with_the_reference(precision):
    model = tiny_model(CAUSAL).eval()
    model.use_precision(precision)
    x, prompts = audio(2, 3000), model.prompt_vectors(("speech", "sfx")).detach()
    with torch.inference_mode():
        native = model.separate(x, prompts)
        with use_reference():
            # Rounding that falls the other way is amplified by what follows.
            close(native, model.separate(x, prompts), 1e-4 if precision == "float32" else 2e-2)


@given(cuts=CUTS, channels=st.integers(1, 2), repeat=st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_stream_equals_the_whole(cuts, channels, repeat):
    sep, x = separator("speech", "speech" if repeat else "bass"), noise(channels, 3000)
    session = sep.session(RATE, channels=channels)
    pieces = [session.push(x[:, a:b]) for a, b in pairwise(sorted({0, *cuts, 3000}))] + [session.flush()]
    whole = sep.separate(x, RATE).stems
    streamed = np.concatenate([piece.stems for piece in pieces], -1)
    assert streamed.shape == whole.shape
    assert np.abs(streamed - whole).max() <= 1e-4 * np.abs(whole).max()


@given(at=st.integers(1, 40))
@settings(max_examples=10, deadline=None)
def test_after_a_change_of_prompts_a_stream_is_one_that_always_had_them(at):
    sep, x, hop = separator("speech"), noise(1, 64 * STFT.hop), STFT.hop
    changing, always = sep.session(RATE, channels=1), sep.session(RATE, channels=1)
    always.set_prompts(("bass", "vocals"))
    theirs = [always.push(x), always.flush()]
    ours = [changing.push(x[:, : at * hop])]
    changing.set_prompts(("bass", "vocals"))
    ours += [changing.push(x[:, at * hop :]), changing.flush()]

    def bass(pieces):
        return np.concatenate([p["bass"] if "bass" in p.labels else np.zeros_like(p.mixture) for p in pieces], -1)

    # The frame at the change cross-fades; behind it not one sample differs.
    first = (at + 1) * hop
    assert np.array_equal(bass(ours)[:, first:], bass(theirs)[:, first:])
    assert not np.array_equal(bass(ours), bass(theirs))


def test_streams_of_a_pool_are_sessions():
    sep, x = separator("speech"), noise(1, 1500)
    pool = sep.pool(size=2, sample_rate=RATE)
    streams = pool.join(), pool.join(("drums", "bass"))
    found = {stream: [] for stream in streams}
    for a, b in pairwise((0, 200, 900, 1500)):
        for stream, piece in pool.push(dict.fromkeys(streams, x[:, a:b])).items():
            found[stream].append(piece.stems)
    for stream, prompts in zip(streams, (("speech",), ("drums", "bass")), strict=True):
        alone = separator(*prompts).session(RATE, channels=1).push(x).stems
        together = np.concatenate(found[stream], -1)
        assert np.abs(together - alone).max() <= 1e-5 * np.abs(alone).max()


def test_a_stream_that_is_reset_or_restored_goes_on_as_it_should():
    sep, x = separator("speech"), noise(1, 1500)
    session = sep.session(RATE, channels=1)
    fresh = session.push(x).stems
    state = session.state
    after = session.push(x).stems
    session.reset()
    assert np.array_equal(session.push(x).stems, fresh)
    session.state = state
    assert np.array_equal(session.push(x).stems, after)


def test_later_input_changes_nothing_before_a_frame_of_latency():
    x, prompts, at = audio(1, 2000), MODEL.prompt_vectors(("speech", "sfx")).detach(), 16 * HOP
    changed = x.clone()
    changed[:, at:] = 0.7
    with torch.inference_mode():
        a, b = MODEL.separate(x, prompts), MODEL.separate(changed, prompts)
    kept = at - CAUSAL.latency_samples
    assert CAUSAL.latency_samples == 2 * HOP
    assert torch.equal(a[..., : kept + 1], b[..., : kept + 1])
    assert not torch.equal(a[..., kept + HOP : at], b[..., kept + HOP : at]), "the latency is stated too high"


def test_the_order_of_prompts_and_their_neighbours_do_not_matter():
    x = audio(1, 1500)
    with torch.inference_mode():
        pair = MODEL.separate(x, MODEL.prompt_vectors(("speech", "sfx")))
        turned = MODEL.separate(x, MODEL.prompt_vectors(("sfx", "drums", "speech")))
        twice = MODEL.separate(x, MODEL.prompt_vectors(("sfx", "sfx")))
    close(turned[:, [2, 0]], pair, 1e-5)
    close(twice[:, :1], pair[:, 1:], 1e-5)
    assert (twice[:, 0] - twice[:, 1]).abs().max() > 1e-3 * twice.abs().max()


def test_level_and_prompt_length_do_not_matter():
    x = audio(1, 20 * HOP)
    with torch.inference_mode():
        prompts = MODEL.prompt_vectors(("speech", "drums"))
        plain = MODEL.separate(x, prompts)
        close(MODEL.separate(x * 8, prompts) / 8, plain, 2e-2)  # a floor keeps silence quiet, and shows a little here
        close(MODEL.separate(x, prompts * 3), plain)


def test_a_batch_may_have_prompts_of_its_own_or_share_them():
    x = audio(2, 10 * HOP)
    with torch.inference_mode():
        shared = MODEL.prompt_vectors(("speech", "drums"))
        whole = MODEL.separate(x, shared)
        close(MODEL.separate(x, shared.expand(2, -1, -1)), whole, 1e-6)
        close(torch.cat([MODEL.separate(x[i : i + 1], shared) for i in range(2)]), whole, 1e-5)


def test_a_step_leaves_its_state_as_it_was():
    with torch.inference_mode():
        modulation = MODEL.condition(MODEL.prompt_vectors(("speech", "drums")))
        state, hops = initial_state(MODEL, 1, 2), audio(1, 6 * HOP).split(HOP, 1)
        for hop in hops[:4]:
            _, state = step(MODEL, hop, state, modulation)
        before = copied(state)
        first, _ = step(MODEL, hops[4], state, modulation)
        again, _ = step(MODEL, hops[4], state, modulation)
    assert torch.equal(first, again)
    assert all(torch.equal(a, b) for a, b in zip(*(tensors_of(s).values() for s in (state, before)), strict=True))


def test_everything_is_trained():
    model = tiny_model(CAUSAL).train()
    prompts = torch.stack((model.prompt_vectors(("speech", "speech")), model.embed(audio(2, 2500, seed=3))))
    model.separate(audio(2, 3000), prompts).square().mean().backward()
    # The prompts that nobody asked for have a gradient of zero, as part of one tensor.
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_query_vectors_do_not_depend_on_level_or_batch():
    clips = audio(3, 2600)
    with torch.inference_mode():
        vectors = MODEL.embed(clips)
        assert vectors.shape == (3, CAUSAL.dim)
        close(MODEL.embed(clips * 0.01), vectors, 1e-3)
        close(MODEL.embed(clips[1:2]), vectors[1:2], 1e-5)
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_the_level_rises_at_once_and_falls_at_its_rate():
    """60 dB louder for ten frames: features after it are as they would be without it once the level has come down."""
    frames = 400
    spec = torch.ones(2, frames, STFT.bins, dtype=torch.complex64)
    spec[1, 10:20] *= 1000
    zero = MODEL.initial_state(2).level
    features, last = MODEL._levelled(spec, zero)
    loudness = features[..., 2].square().mean(-1)
    assert torch.allclose(loudness[:, :10], torch.ones(())) and torch.allclose(loudness[1, 10:20], torch.ones(()))
    per_frame = CAUSAL.release_db * STFT.hop / RATE
    recovered = 20 + int(60 / per_frame) + 1
    if recovered < frames:
        assert torch.allclose(loudness[1, recovered:], torch.ones(()), atol=1e-4)
    fallen = 20 * torch.log10(loudness[1, 20 : min(recovered - 1, frames)])
    assert torch.allclose(fallen.diff(), torch.full_like(fallen[1:], per_frame), atol=1e-3)
    # From a state, as in one go.
    again, _ = MODEL._levelled(spec[:, 30:], MODEL._levelled(spec[:, :30], zero)[1])
    assert torch.allclose(again, features[:, 30:], rtol=1e-4) and torch.equal(last[0] < 20, torch.tensor(True))


def test_the_default_is_small():
    config = load_recipe("default").model
    assert model_flop(config, 32000 * 10, 2) / 10 <= 2.5e9
    assert config.latency_samples / config.sample_rate <= 0.04
    model = build(config)
    assert sum(t.numel() * t.element_size() for t in tensors_of(model.initial_state(1)).values()) <= 256 * 1024


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bands": (4, 4)}, "sum to"),
        ({"heads": 3}, "heads must divide dim"),
        ({"release_db": 0.0}, "release_db"),
        ({"prompts": ("a", "a")}, "distinct"),
        ({"prompts": ()}, "at least one"),
        ({"stft": replace(STFT, hop=32)}, "2 hop"),
        ({"stft": replace(STFT, padding="reflect")}, "padding zero"),
        ({"blocks": 0}, "blocks must be 1 to 1000, got 0"),
    ],
)
def test_bad_sizes(change, says):
    with pytest.raises(InputError, match=says):
        replace(CAUSAL, **change)


def test_bad_calls_are_named():
    with pytest.raises(PromptError, match="unknown prompts"):
        MODEL.prompt_vectors(("piano",))
    with pytest.raises(PromptError, match="needs prompts"):
        MODEL(torch.zeros(1, 3, STFT.bins, dtype=torch.complex64), None)
    modulation = MODEL.condition(MODEL.prompt_vectors(("speech",)))
    with pytest.raises(InputError, match=r"\[1, 64\]"):
        step(MODEL, torch.zeros(1, HOP + 1), initial_state(MODEL, 1, 1), modulation)
