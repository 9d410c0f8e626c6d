"""Live streams of models that are not causal: chunks of any size, the latency, states."""

import dataclasses
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sliding_cores import POLICY, SEPARATORS, make, streamed
from tiny import RATE, TUSS, noise, tiny_directory

from ussfast import InputError, SegmentPolicy
from ussfast.engine.nested import fit
from ussfast.long_audio.policy import live_policy


@pytest.fixture(scope="module")
def wholes():
    """Audio of each model and what the file engine makes of it."""
    audio = {"tuss": noise(2, 6100), "unconditional": noise(1, 6100, 1), "stereo": noise(2, 6100, 2)}
    return {kind: (sound, SEPARATORS[kind].separate(sound, RATE).stems) for kind, sound in audio.items()}


@settings(max_examples=5, deadline=None)
@given(chunks=st.lists(st.sampled_from([0, 7, 64, 400, 5000]) | st.integers(100, 2000), max_size=4))
@pytest.mark.parametrize("kind", SEPARATORS)
def test_a_stream_is_the_file_with_the_same_windows(wholes, kind, chunks):
    audio, whole = wholes[kind]
    out = streamed(make(kind, len(audio)), audio, [*chunks, 333])
    assert out.shape == whole.shape and out.dtype == np.float32
    np.testing.assert_allclose(out, whole, atol=1e-6)


def test_one_sample_at_a_time_comes_out_when_it_must():
    audio = noise(1, 2100)
    core, whole = make(channels=1), SEPARATORS["tuss"].separate(audio, RATE).stems
    assert core.latency == 800 and core.fade == 100 and core.sources == 3
    outs = [core.push(audio[:, at : at + 1]) for at in range(2100)]
    given_out = np.cumsum([out.shape[-1] for out in outs])
    taken = np.arange(1, 2101)
    assert (given_out >= taken - core.latency + 1).all()
    assert given_out[798] == 0 and given_out[799] == given_out[1198] == 400  # no sooner, either
    np.testing.assert_allclose(np.concatenate([*outs, core.flush()], -1), whole, atol=1e-6)


@settings(max_examples=6, deadline=None)
@given(changed=st.integers(800, 3500))
def test_nothing_from_the_latency_on_is_heard(changed):
    audio = noise(1, 3500)
    other = audio.copy()
    other[:, changed:] = noise(1, 3500 - changed, 9) * 3
    outs = [streamed(make(channels=1), sound, [500]) for sound in (audio, other)]
    final = changed - make().latency + 1
    np.testing.assert_array_equal(outs[0][..., :final], outs[1][..., :final])
    if changed < 3400:
        border = -(-final // 400) * 400  # where the first window begins that hears the change
        assert (outs[0][..., border : border + 100] != outs[1][..., border : border + 100]).any()


@pytest.mark.parametrize("samples", [0, 1, 50, 799])
def test_short_streams(samples):
    audio, core = noise(1, samples), make(channels=1)
    for _ in range(2):  # the second time as a new stream
        assert core.push(audio).shape == (3, 1, 0)
        rest = core.flush()
        assert rest.shape == (3, 1, samples) and core.flush().shape == (3, 1, 0)
        if samples:
            np.testing.assert_allclose(rest, SEPARATORS["tuss"].separate(audio, RATE).stems, atol=1e-6)


def test_reset_forgets_the_stream_and_the_buffer_may_be_used_again():
    audio, core = noise(2, 3000), make()
    core.push(noise(2, 1700, 5))
    core.reset()
    buffer, parts = np.empty((2, 300), np.float32), []
    for at in range(0, 3000, 300):
        buffer[:] = audio[:, at : at + 300]
        parts.append(core.push(buffer))
        parts[-1].copy()[:] = buffer[:] = 7
    np.testing.assert_array_equal(np.concatenate([*parts, core.flush()], -1), streamed(make(), audio, [900]))


def test_memory_is_flat():
    core, block = make(), noise(2, 400)
    for _ in range(10):  # windows grow to their full size
        core.push(block)
    tracemalloc.start()
    try:
        held = []
        for _ in range(3):
            for _ in range(10):
                core.push(block)
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[-1] < held[0] + 20_000  # ten blocks are 32 kB, what comes out of them 96 kB
    assert core.state.held.shape[1] <= 3200 and core.state.tail.shape[2] <= 3200


CHILD = """
import sys, numpy as np, torch
from ussfast import Separator
from ussfast.long_audio.policy import live_policy
from ussfast.streaming.sliding import SlidingCore, SlidingState
model, folder = sys.argv[1:]
separator = Separator(model, device="cpu")
torch.set_num_threads(1)
vectors = torch.stack([separator.prompts[name].vector for name in ("speech", "sfx", "sfx")])
core = SlidingCore(separator.engine, live_policy(2.0, 0.1, segment=0.4), 2, 3, vectors, (0, 1, 2), ((1, 2),))
core.load(SlidingState(**torch.load(folder + "/state.pt", weights_only=True)))
audio = np.load(folder + "/rest.npy")
np.save(folder + "/out.npy", np.concatenate([core.push(audio), core.flush()], -1))
"""


def test_a_state_goes_on_in_another_process(tmp_path):
    audio, core = noise(2, 4000), make()
    core.push(audio[:, :2345])
    torch.save(vars(core.state), tmp_path / "state.pt")
    np.save(tmp_path / "rest.npy", audio[:, 2345:])
    arguments = [str(tiny_directory(tmp_path, TUSS)), str(tmp_path)]
    subprocess.run([sys.executable, "-c", CHILD, *arguments], check=True)
    rest = np.concatenate([core.push(audio[:, 2345:]), core.flush()], -1)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rest)


@pytest.mark.parametrize("at", [0, 300, 799, 800, 2345])
def test_a_state_is_a_snapshot(at):
    audio, core = noise(2, 4000), make()
    core.push(audio[:, :at])
    state = core.state
    assert all(isinstance(value, torch.Tensor) for value in vars(state).values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.held = state.tail
    first = streamed(core, audio[:, at:], [700])
    core.push(noise(2, 1234, 3))
    for target in (core, make()):
        target.load(state)
        np.testing.assert_array_equal(streamed(target, audio[:, at:], [611]), first)
    target.load(state)
    for snapshot in (state, target.state):
        snapshot.held.zero_(), snapshot.tail.zero_()
    np.testing.assert_array_equal(streamed(target, audio[:, at:], [700]), first)


def test_states_of_other_streams_are_refused():
    core = make()
    core.push(noise(2, 2345))
    fit(core.after(2345), core.state)
    other = make(policy=live_policy(2.0, 0.2, segment=0.4))
    for wrong, said in [
        (make(slot_count=4).after(2345), r"tail is float32 \[3, 2, 2000\], expected float32 \[4, 2, 2000\]"),
        (make(channels=1).after(2345), r"held is float32 \[2, 2345\], expected float32 \[1, 2345\]"),
        (other.after(2345), r"windows is \[3200, 400, 100, 300\], expected \[3200, 800, 200, 600\]"),
        (core.after(2745), r"held is float32 \[2, 2345\], expected float32 \[2, 2745\]"),
    ]:
        with pytest.raises(InputError, match=said):
            fit(wrong, core.state)


@pytest.mark.parametrize("policy", [POLICY, SegmentPolicy(segment=0.4, overlap=0.15)])
def test_what_a_state_is_like_follows_from_the_samples_taken(policy):
    core, audio, given = make(policy=policy), noise(2, 9000), 0
    for at in range(0, 9000, 37):
        fit(core.after(at), core.state)
        assert core.given(at) == given
        given += core.push(audio[:, at : at + 37]).shape[-1]


def test_audio_and_windows_that_cannot_work():
    for audio in (np.zeros(5), np.zeros((1, 5)), np.zeros((5, 2))):
        with pytest.raises(InputError, match=r"\[2, samples\] expected, not \["):
            make().push(audio)
    with pytest.raises(InputError, match="live windows need stitch 'fade'"):
        make(policy=SegmentPolicy(0.4, 0.3, "published"))
    with pytest.raises(InputError, match="channels must be at least 1, not 0"):
        make(channels=0)
    with pytest.raises(InputError, match="give it audio of 2 channels or of 1, not of 3"):
        make("stereo", channels=3)
