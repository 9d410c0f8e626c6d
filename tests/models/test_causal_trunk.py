"""The causal model with a trunk that sees no prompts: offline, in chunks, in streams, with changing prompts."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from causal_models import audio, close
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import RATE, STFT, TRUNK, noise, tiny_model

from ussfast import Separator
from ussfast.errors import InputError, PromptError
from ussfast.flops import model_flop
from ussfast.models import CausalConfig, build
from ussfast.models.causal_chunks import CausalChunks
from ussfast.nested import tensors_of
from ussfast.train.recipe import load_recipe

MODEL = tiny_model(TRUNK).eval()
CUTS = st.lists(st.sampled_from((0, 1, 63, 64, 65, 300, 1000)), max_size=6)


def separator(*prompts):
    return Separator.from_model(tiny_model(TRUNK), prompts, device="cpu")


@given(cuts=CUTS, samples=st.integers(1, 2500), frames=st.integers(1, 20), rows=st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_chunks_of_a_recording_are_the_same_as_all_of_it(cuts, samples, frames, rows):
    x = audio(rows, samples + 1)
    edges = sorted({0, *(cut for cut in cuts if cut <= samples), samples + 1})
    with torch.inference_mode():
        prompts = MODEL.prompt_vectors(("speech", "speech", "bass"))
        chunks = CausalChunks(MODEL, MODEL.condition(prompts), frames)
        parts = [chunks.push(x[:, a:b]) for a, b in pairwise(edges)] + [chunks.flush()]
        close(torch.cat(parts, -1), MODEL.separate(x, prompts))


@given(cuts=CUTS, channels=st.integers(1, 2), repeat=st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_stream_equals_the_whole(cuts, channels, repeat):
    sep, x = separator("speech", "speech" if repeat else "bass"), noise(channels, 3000)
    session = sep.session(channels=channels)
    pieces = [session.push(x[:, a:b]) for a, b in pairwise(sorted({0, *cuts, 3000}))] + [session.flush()]
    whole = sep.separate(x, RATE).stems
    streamed = np.concatenate([piece.stems for piece in pieces], -1)
    assert streamed.shape == whole.shape
    assert np.abs(streamed - whole).max() <= 1e-4 * np.abs(whole).max()


@given(at=st.integers(1, 40))
@settings(max_examples=10, deadline=None)
def test_after_a_change_of_prompts_a_stream_is_one_that_always_had_them(at):
    sep, x, hop = separator("speech"), noise(1, 64 * STFT.hop), STFT.hop
    changing, always = sep.session(channels=1), sep.session(channels=1)
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
        alone = separator(*prompts).session(channels=1).push(x).stems
        together = np.concatenate(found[stream], -1)
        assert np.abs(together - alone).max() <= 1e-5 * np.abs(alone).max()


def test_a_stream_that_is_reset_or_restored_goes_on_as_it_should():
    sep, x = separator("speech"), noise(1, 1500)
    session = sep.session(channels=1)
    fresh = session.push(x).stems
    state = session.state
    after = session.push(x).stems
    session.reset()
    assert np.array_equal(session.push(x).stems, fresh)
    session.state = state
    assert np.array_equal(session.push(x).stems, after)


def test_later_input_changes_nothing_before_a_frame_of_latency():
    x, prompts = audio(1, 2000), MODEL.prompt_vectors(("speech", "sfx")).detach()
    changed = x.clone()
    changed[:, 1000:] = 0.7
    with torch.inference_mode():
        a, b = MODEL.separate(x, prompts), MODEL.separate(changed, prompts)
    kept = 1000 - TRUNK.latency_samples
    assert torch.equal(a[..., : kept + 1], b[..., : kept + 1]) and not torch.equal(a, b)


def test_the_order_of_prompts_and_their_neighbours_do_not_matter():
    x = audio(1, 1500)
    with torch.inference_mode():
        pair = MODEL.separate(x, MODEL.prompt_vectors(("speech", "sfx")))
        turned = MODEL.separate(x, MODEL.prompt_vectors(("sfx", "drums", "speech")))
        twice = MODEL.separate(x, MODEL.prompt_vectors(("sfx", "sfx")))
    close(turned[:, [2, 0]], pair, 1e-5)
    close(twice[:, :1], pair[:, 1:], 1e-5)
    assert (twice[:, 0] - twice[:, 1]).abs().max() > 1e-3 * twice.abs().max()


def test_the_level_rises_at_once_and_falls_at_its_rate():
    """60 dB louder for ten frames: features after it are as they would be without it once the level has come down."""
    frames = 400
    spec = torch.ones(2, frames, STFT.bins, dtype=torch.complex64)
    spec[1, 10:20] *= 1000
    zero = MODEL.initial_state(2).level
    features, last = MODEL._levelled(spec, zero)
    loudness = features[..., 2].square().mean(-1)
    assert torch.allclose(loudness[:, :10], torch.ones(())) and torch.allclose(loudness[1, 10:20], torch.ones(()))
    per_frame = TRUNK.release_db * STFT.hop / RATE
    recovered = 20 + int(60 / per_frame) + 1
    if recovered < frames:
        assert torch.allclose(loudness[1, recovered:], torch.ones(()), atol=1e-4)
    fallen = 20 * torch.log10(loudness[1, 20 : min(recovered - 1, frames)])
    assert torch.allclose(fallen.diff(), torch.full_like(fallen[1:], per_frame), atol=1e-3)
    # From a state, as in one go.
    again, _ = MODEL._levelled(spec[:, 30:], MODEL._levelled(spec[:, :30], zero)[1])
    assert torch.allclose(again, features[:, 30:], rtol=1e-4) and torch.equal(last[0] < 20, torch.tensor(True))


def test_the_next_default_is_small():
    config = load_recipe("next").model
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
        ({"blocks": 0}, "at least 1"),
    ],
)
def test_bad_sizes(change, says):
    with pytest.raises(InputError, match=says):
        CausalConfig(**{**{f: getattr(TRUNK, f) for f in TRUNK.__dataclass_fields__}, **change})


def test_unknown_prompts():
    with pytest.raises(PromptError, match="unknown prompts"):
        MODEL.prompt_vectors(("piano",))
    with pytest.raises(PromptError, match="needs prompts"):
        MODEL(torch.zeros(1, 3, STFT.bins, dtype=torch.complex64), None)
