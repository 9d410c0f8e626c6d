"""Streams of the causal model, by native steps alone or in a pool: each is what plain PyTorch gives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, PROMPTS, RATE, noise, tiny_model

from ussfast import Separator
from ussfast._ext import cpu_isa
from ussfast.errors import DeviceError
from ussfast.models.causal.step import TrunkStep
from ussfast.streaming.causal import CausalCore

NATIVE, PLAIN = (
    Separator.from_model(tiny_model(CAUSAL), ("speech",), backend=backend, dtype="float32")
    for backend in ("native", "reference")
)
NAMES = st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=4, unique=True).map(tuple)
SIZES = st.sampled_from((0, 1, 30, 63, 64, 65, 200, 700))


def same(ours, theirs):
    assert ours.labels == theirs.labels and ours.stems.shape == theirs.stems.shape
    if ours.stems.size:
        assert np.abs(ours.stems - theirs.stems).max() <= 1e-4 * max(np.abs(theirs.stems).max(), 1e-3)


def act(data, channels):
    """Something that happens to a session: a method of it, and its argument."""
    if data.draw(st.integers(0, 3)) == 0:
        return "set_prompts", data.draw(NAMES)
    return "push", noise(channels, data.draw(SIZES), data.draw(st.integers(0, 9)))


@given(data=st.data(), rate=st.sampled_from((RATE, 16000)), channels=st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_sessions_with_chunks_of_any_size_and_changing_prompts(data, rate, channels):
    names = data.draw(NAMES)
    ours, theirs = (sep.session(rate, prompts=names, channels=channels) for sep in (NATIVE, PLAIN))
    for _ in range(data.draw(st.integers(1, 10))):
        what, argument = act(data, channels)
        ours_out, theirs_out = (getattr(session, what)(argument) for session in (ours, theirs))
        if what == "push":
            same(ours_out, theirs_out)
    same(ours.flush(), theirs.flush())


@given(data=st.data(), channels=st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_streams_join_and_leave_a_pool_and_change_their_prompts(data, channels):
    pool, alone = NATIVE.pool(4, RATE, channels=channels), {}
    for _ in range(data.draw(st.integers(2, 10))):
        if len(pool) < 4 and data.draw(st.booleans()):
            names = data.draw(NAMES)
            alone[pool.join(names)] = PLAIN.session(RATE, prompts=names, channels=channels)
        chunks = {}
        for stream, session in alone.items():
            what, argument = act(data, channels)
            if what == "push":
                chunks[stream] = argument
            else:
                pool[stream].set_prompts(argument)
                session.set_prompts(argument)
        for stream, piece in pool.push(chunks).items():
            same(piece, alone[stream].push(chunks[stream]))
        if alone and data.draw(st.integers(0, 4)) == 0:
            stream = data.draw(st.sampled_from(sorted(alone)))
            same(pool.leave(stream), alone.pop(stream).flush())
    for stream, session in alone.items():
        same(pool.leave(stream), session.flush())


@pytest.mark.skipif(cpu_isa() is None, reason="the C++ extension is not loaded")
def test_sessions_and_pools_take_the_native_step():
    sessions = [sep.session(RATE, channels=1) for sep in (NATIVE, PLAIN)]
    pool = NATIVE.pool(2, RATE)
    cores = [session.core for session in (*sessions, pool[pool.join()])]
    assert all(isinstance(core, CausalCore) for core in cores)
    assert [isinstance(core.rows.native, TrunkStep) for core in cores] == [True, False, True]


@pytest.mark.skipif(cpu_isa() is None, reason="the C++ extension is not loaded")
@pytest.mark.parametrize("dtype", ["auto", "bf16"])
def test_streams_multiply_bfloat16_where_the_cpu_can(dtype):
    rough, x = Separator.from_model(tiny_model(CAUSAL), ("speech",), dtype=dtype), noise(1, 2000)
    a, b = (sep.session(RATE, channels=1).push(x).stems for sep in (NATIVE, rough))
    assert np.abs(a - b).max() < 0.03 * np.abs(a).max()
    assert np.array_equal(a, b) == (cpu_isa() != "avx512_bf16")


@pytest.mark.skipif(cpu_isa() is None, reason="the C++ extension is not loaded")
def test_files_multiply_bfloat16_only_if_it_is_asked_for():
    x = noise(1, 2000)
    exact, auto, rough = (
        Separator.from_model(tiny_model(CAUSAL), ("speech",), dtype=dtype).separate(x, RATE).stems
        for dtype in ("float32", "auto", "bf16")
    )
    assert np.array_equal(auto, exact) and np.abs(rough - exact).max() < 0.03 * np.abs(exact).max()
    assert np.array_equal(rough, exact) == (cpu_isa() != "avx512_bf16")


def test_int8_is_refused():
    with pytest.raises(DeviceError, match="int8 is not for the causal model: use auto, float32 or bf16"):
        Separator.from_model(tiny_model(CAUSAL), ("speech",), dtype="int8", device="cpu")


def test_a_state_of_either_step_goes_on_in_the_other():
    x = noise(1, 3000)
    for first, second in ((NATIVE, PLAIN), (PLAIN, NATIVE)):
        begun, going_on = first.session(RATE, channels=1), second.session(RATE, channels=1)
        begun.push(x[:, :1501])
        going_on.state = begun.state
        same(going_on.push(x[:, 1501:]), begun.push(x[:, 1501:]))


def test_a_repeated_stream_is_the_same_to_the_last_bit():
    x = noise(1, 3000)
    pieces = [NATIVE.session(RATE, channels=1).push(x).stems for _ in range(2)]
    assert torch.equal(*map(torch.from_numpy, pieces))
