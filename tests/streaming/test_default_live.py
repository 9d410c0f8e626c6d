"""The embedded model, live."""

import resource
from pathlib import Path

import numpy as np
import pytest
from pieces import close, cut, joined
from tiny import CAUSAL, noise, tiny_model

from ussfast import Separator, demo
from ussfast.audio import read, resample
from ussfast.engine.nested import tensors_of


@pytest.fixture(scope="module")
def separator():
    return Separator("default", demo.PROMPTS, dtype="float32")


@pytest.mark.parametrize(("rate", "channels"), [(32000, 1), (48000, 2), (8000, 1)])
def test_a_stream_equals_the_whole(separator, rate, channels):
    audio = 0.3 * noise(channels, 3 * 32000)
    audio = audio if rate == 32000 else resample(audio, 32000, rate)
    pieces = list(separator.stream(cut(audio, [0, 1, 997, 20011, 333] * 3), rate))
    close(joined(pieces)[0], separator.separate(audio, rate).stems)


def test_a_stream_of_its_own_choice_is_within_40_db_of_the_whole(separator):
    """Where the CPU multiplies bfloat16, streams do; a real recording, for noise hides more."""
    mixture, rate = read(demo.HERE / "mixture.flac")
    whole = separator.separate(mixture, rate).stems
    stems = joined(Separator("default", demo.PROMPTS).stream(cut(mixture, [20011] * 9), rate))[0]
    for ours, exact in zip(stems, whole, strict=True):
        assert ((ours - exact) ** 2).sum() <= 1e-4 * (exact**2).sum()


def test_the_latency_is_32_ms(separator):
    session = separator.session(separator.sample_rate, channels=1)
    assert session.latency == 0.032 and session.hop_seconds == 0.016
    assert separator.session(48000).latency < 0.04
    # A click: all of it that comes out is within a frame of it, and the first part of it no later than stated.
    click = np.zeros((1, 32000), np.float32)
    click[0, 16000] = 0.5
    given, heard = 0, None
    for number, sample in enumerate(np.array_split(click, 2000, 1)):
        piece = session.push(sample)
        given += piece.mixture.shape[1]
        if heard is None and given > 16000:
            heard = (number + 1) * 16
    assert heard is not None and heard - 16000 <= 1024


def resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_memory_stays_where_it_is(separator):
    """Buffers are written to in place, and nothing piles up over thousands of pushes."""
    session = Separator.from_model(tiny_model(CAUSAL), ("speech", "drums")).session(16000, channels=2)
    chunk = noise(2, 160)
    for _ in range(500):
        session.push(chunk)
    addresses = {name: tensor.data_ptr() for name, tensor in tensors_of(session.core.rows.state).items()}
    before = resident_mib()
    for _ in range(5000):
        session.push(chunk)
    assert abs(resident_mib() - before) < 1
    assert addresses == {name: tensor.data_ptr() for name, tensor in tensors_of(session.core.rows.state).items()}
