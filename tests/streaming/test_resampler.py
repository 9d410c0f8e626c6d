"""Conversion of live streams: soxr's result, however the stream is cut, saved and restored."""

import math
from dataclasses import replace

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast._ext import cpu_isa
from ussfast.audio.resampling import resample
from ussfast.errors import InputError
from ussfast.streaming import _sums, resampler
from ussfast.streaming._filters import filter_of
from ussfast.streaming.resampler import StreamResampler

RATES = [8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000]
PAIRS = st.tuples(st.sampled_from(RATES), st.sampled_from(RATES))
SIZES = st.lists(st.sampled_from([0, 1, 2, 7, 127, 331, 1009, 4096]), max_size=8)
FULL_SCALE = 2e-6


def noise(channels, samples, seed=0):
    generator = torch.Generator().manual_seed(samples + seed)
    return torch.rand(channels, samples, generator=generator) - 0.5


def whole(audio, rate_in, rate_out):
    return torch.from_numpy(resample(audio.numpy(), rate_in, rate_out))


def pushes(stream, audio, sizes):
    parts, done = [], 0
    for size in sizes:
        parts.append(stream.push(audio[:, done : done + size]))
        done += size
    return [*parts, stream.push(audio[:, done:])]


def converted(audio, rate_in, rate_out, sizes=(), length=None):
    stream = StreamResampler(len(audio), rate_in, rate_out)
    return torch.cat([*pushes(stream, audio, sizes), stream.flush(length)], 1)


@settings(max_examples=40, deadline=None)
@given(rates=PAIRS, channels=st.integers(1, 5), samples=st.integers(0, 5000), sizes=SIZES)
def test_stream_equals_soxr_and_no_cut_changes_a_bit(rates, channels, samples, sizes):
    audio = noise(channels, samples)
    out = converted(audio, *rates, sizes)
    assert out.dtype == torch.float32 and out.shape[1] == round(samples * rates[1] / rates[0] + 1e-9)
    torch.testing.assert_close(out, whole(audio, *rates), rtol=0, atol=FULL_SCALE)
    assert torch.equal(converted(audio, *rates), out)


# Rates with a small common factor: soxr's clock is wrong, but a quarter of a second does not show it.
@pytest.mark.parametrize("rates", [(47_999, 32_000), (32_000, 47_999), (22_254, 16_000)])
def test_uneven_rates_equal_soxr(rates):
    audio = noise(1, 12_000)
    audio[:, :500] = 0  # soxr goes wrong with sound that begins at once
    out = converted(audio, *rates, [1, 5000])
    direct = torch.from_numpy(soxr.resample(audio[0].numpy(), *rates, "HQ"))[None, : out.shape[1]]
    torch.testing.assert_close(out[:, : direct.shape[1]], direct, rtol=0, atol=2 * FULL_SCALE)
    assert torch.equal(out, converted(audio, *rates))


@settings(max_examples=20, deadline=None)
@given(
    rates=PAIRS.filter(lambda pair: pair[0] != pair[1]),
    samples=st.integers(2, 4000),
    sizes=SIZES,
    more=st.integers(-2, 2),
)
def test_there_and_back_keeps_the_length(rates, samples, sizes, more):
    there = converted(noise(1, samples), *rates)
    back = converted(there, *rates[::-1], sizes, samples + more)
    assert back.shape == (1, samples + more)
    expected = whole(there, *rates[::-1])  # which ends at its own length
    both = min(back.shape[1], expected.shape[1])
    torch.testing.assert_close(back[:, :both], expected[:, :both], rtol=0, atol=FULL_SCALE)


@pytest.mark.parametrize("rates", [(48_000, 32_000), (32_000, 44_100), (96_000, 11_025), (8000, 192_000), (9, 9)])
def test_output_waits_for_the_stated_delay_and_no_longer(rates):
    samples, at = 6000, 3500
    audio = noise(1, samples)
    changed = audio.clone()
    changed[:, at:] += 1
    stream, ready = StreamResampler(1, *rates), 0
    out, other = converted(audio, *rates), converted(changed, *rates)
    same = int((out == other).all(0).logical_not().nonzero()[0])
    for known in range(samples + 1):
        # Output sample k lies floor(k * rate_in / rate_out) samples behind the first.
        while ready * rates[0] // rates[1] + stream.delay < known:
            ready += 1
        if known == at:
            assert same >= ready
            # The last weights are small: a change shows at the latest three samples after it may.
            assert same <= ready + math.ceil(3 * max(1, rates[1] / rates[0]))
        assert stream.ready(known) == ready
    assert stream.push(audio).shape[1] == ready
    # 3.2 ms of the lower rate's samples at 32 kHz
    assert stream.delay / rates[0] <= 105 / min(rates)


@settings(max_examples=25, deadline=None)
@given(rates=PAIRS, channels=st.integers(1, 5), cut=st.integers(0, 3000), sizes=SIZES)
def test_a_restored_stream_continues_bit_for_bit(rates, channels, cut, sizes):
    audio = noise(channels, 4000)
    first, second = StreamResampler(channels, *rates), StreamResampler(channels, *rates)
    before = first.push(audio[:, :cut])
    state = first.state
    for stream in (first, second):  # changes nothing in what was saved, and is forgotten
        stream.push(noise(channels, 999, seed=1))
    second.load(state)
    assert int(second.state.taken) == cut and int(second.state.given) == before.shape[1]
    out = torch.cat([before, *pushes(second, audio[:, cut:], sizes), second.flush()], 1)
    assert torch.equal(out, converted(audio, *rates))


def test_a_state_has_a_fixed_size_and_holds_for_years():
    stream = StreamResampler(2, 44_100, 32_000)
    memory, size = stream._tail.data_ptr(), stream.state.tail.shape
    for _ in range(3):
        stream.push(noise(2, 5000))
        assert stream._tail.data_ptr() == memory and stream.state.tail.shape == size
    # 441 * 10^13 samples later, a whole number of periods: 3200 years.
    late, periods = stream.state, 10**13
    late = replace(late, taken=late.taken + 441 * periods, given=late.given + 320 * periods)
    after = StreamResampler(2, 44_100, 32_000)
    after.load(late)
    block = noise(2, 7000)
    assert torch.equal(after.push(block), stream.push(block))
    assert torch.equal(after.flush(), stream.flush())


def test_long_blocks_are_worked_on_in_pieces(monkeypatch):
    audio = noise(2, 100_003)
    out = converted(audio, 32_000, 44_100)
    monkeypatch.setattr(resampler, "_PIECE", 1 << 20)
    assert torch.equal(converted(audio, 32_000, 44_100), out)


@settings(max_examples=25, deadline=None)
@given(rates=PAIRS, asked=st.lists(st.lists(st.integers(0, 3), max_size=4, unique=True), min_size=2, max_size=6))
def test_rows_that_nobody_asks_for_are_remembered_all_the_same(rates, asked):
    audio, first, second = noise(4, 700 * len(asked)), StreamResampler(4, *rates), StreamResampler(4, *rates)
    for block, rows in zip(audio.split(700, 1), asked, strict=True):
        assert torch.equal(second.push(block, rows), first.push(block)[rows])
    assert torch.equal(second.push(audio, slice(1, 3)), first.push(audio)[1:3])
    assert torch.equal(second.flush(), first.flush())


def test_equal_rates_pass_through():
    audio = noise(3, 100)
    stream = StreamResampler(3, 44_100, 44_100)
    out = stream.push(audio)
    assert torch.equal(out, audio) and out.data_ptr() != audio.data_ptr()
    assert stream.delay == 0 and stream.state.tail.shape == (3, 0)
    stream.pass_on(2)
    assert int(stream.state.taken) == int(stream.state.given) == 102
    assert torch.equal(stream.flush(104), torch.zeros(3, 2))
    assert converted(audio, 8000, 8000, [3, 0]).shape == (3, 100)


def test_a_stream_can_be_used_again_and_in_any_mode():
    audio, stream = noise(1, 3000), StreamResampler(1, 48_000, 32_000)
    first = torch.cat([stream.push(audio), stream.flush()], 1)
    with torch.inference_mode():
        inside = StreamResampler(1, 48_000, 32_000)
        part = inside.push(audio[:, :1000])
        stream.push(audio)
        stream.reset()
        stream.load(inside.state)
    for resumed in (stream, inside):
        again = torch.cat([part, resumed.push(audio[:, 1000:].requires_grad_()), resumed.flush()], 1)
        assert torch.equal(again, first) and not again.requires_grad
        audio = audio.detach()


def test_strided_input_and_silence_stay_what_they_are():
    audio = noise(2, 2000)
    expected = converted(audio, 16_000, 32_000)
    for same in (audio.t().contiguous().t(), audio.repeat_interleave(2, 1)[:, ::2]):
        assert torch.equal(converted(same, 16_000, 32_000), expected)
    assert not converted(torch.zeros(1, 999), 16_000, 44_100).any()


def test_constant_input_keeps_its_level():
    for rates in [(32_000, 48_000), (44_100, 32_000), (192_000, 8000), (22_254, 16_000)]:
        middle = converted(torch.ones(1, 16_000), *rates)[0].chunk(3)[1]
        torch.testing.assert_close(middle, torch.ones_like(middle), rtol=0, atol=2e-6)


@pytest.mark.parametrize("up, down", [(3, 2), (2, 3), (441, 320), (147, 320), (1, 24), (24, 1)])
def test_filters_have_linear_phase(up, down):
    found = filter_of(up, down)
    table, last = found.table.double(), found.last
    at = torch.arange(up)[:, None] / up - torch.arange(found.first, last + 1)
    table = table[:up]
    torch.testing.assert_close(table.sum(1), torch.ones(up).double(), rtol=0, atol=2e-6)
    # Around their middle: the mean distance is that of the output sample, zero.
    torch.testing.assert_close((table * at).sum(1), torch.zeros(up).double(), rtol=0, atol=1e-4 * max(1, down / up))
    assert found.table.shape[1] % 16 == 0 and found.table[:up, -1].abs().max() > 0


# `phases` as many as rows: no interpolation; otherwise weights between rows.
@pytest.mark.parametrize("up, down, rows", [(3, 2, 3), (1, 4, 1), (441, 320, 441), (1000, 77, 32), (7, 9000, 20)])
@pytest.mark.parametrize("channels, count, phase", [(1, 1, 0), (2, 1026, 0), (3, 5, -1), (2, 0, 0)])
def test_native_equals_reference(up, down, rows, channels, count, phase):
    # Without the extension there is only the reference, which the other tests run.
    if cpu_isa() is None:
        pytest.skip("the C++ kernels are not loaded")
    count = min(count, 4_000_000 // down)
    table, phase = torch.randn(rows + 1, 48), phase % up
    x = torch.randn(channels, 2 + (phase + max(count - 1, 0) * down) // up + 48)
    args = x, table, 2, phase, up, down, count
    expected = _sums.reference(x.double(), table.double(), *args[2:])
    for found in (_sums.weighted_sums()(*args), _sums.reference(*args)):
        assert found.shape == (channels, count)
        torch.testing.assert_close(found, expected.float(), rtol=0, atol=2e-5)
    with pytest.raises(RuntimeError, match="_resample: start 3"):
        torch.ops.ussfast._resample(x, table, 3, phase, up, down, max(count, 1))


def test_the_reference_serves_streams_as_well(monkeypatch):
    audio = noise(2, 3000)
    expected = converted(audio, 44_100, 32_000)
    monkeypatch.setattr(_sums, "cpu_isa", lambda: None)
    out = converted(audio, 44_100, 32_000, [1, 0, 700, 13])
    assert torch.equal(converted(audio, 44_100, 32_000), out)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


def test_errors_say_what_fits():
    with pytest.raises(InputError, match="rate_in must be a whole number of Hz from 1 to 768000, not 0"):
        StreamResampler(1, 0, 48_000)
    with pytest.raises(InputError, match="100 Hz and 768000 Hz are more than a factor of 1000 apart"):
        StreamResampler(1, 100, 768_000)
    with pytest.raises(InputError, match="channels must be at least 1, not 0"):
        StreamResampler(0, 1000, 2000)
    stream = StreamResampler(2, 8000, 16_000)
    wrong = [torch.zeros(3, 10), torch.zeros(10), torch.zeros(2, 10).double(), np.zeros((2, 10), np.float32)]
    for block in [*wrong, torch.zeros(2, 10, device="meta")]:
        with pytest.raises(InputError, match=r"\[2, samples\] float32 on the CPU expected, not (float|ndarray)"):
            stream.push(block)
    stream.push(torch.zeros(2, 10))
    with pytest.raises(InputError, match=r"a length of 30 is out of reach, 10 samples become 20 \(\+-4\)"):
        stream.flush(30)
    stream = StreamResampler(1, 8000, 8000)
    stream.push(torch.zeros(1, 10))
    with pytest.raises(InputError, match="a length of 9 is out of reach, 10 samples are out already"):
        stream.flush(9)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    stream = StreamResampler(2, 32_000, 48_000)
    stream.push(noise(2, 500))
    good = stream.state
    given = int(good.given)
    bad = {
        r"tail is float32 \[1, 191\], expected float32 \[2, 191\]": {"tail": good.tail[:1]},
        r"tail is float64 \[2, 191\], expected float32": {"tail": good.tail.double()},
        "tail has numbers that are not within": {"tail": good.tail * torch.nan},
        r"taken must be int64 \[\], not int64 \[1\]": {"taken": good.taken[None]},
        f"given is {given + 1}, expected {given}": {"given": good.given + 1},
        f"given is {given}, expected": {"taken": good.taken + 2},
        "taken must be 0 to 9007199254740992, not -5": {"taken": torch.tensor(-5)},
        "taken must be 0 to 9007199254740992, not 9223372036854775807": {"taken": torch.tensor(2**63 - 1)},
    }
    for message, change in bad.items():
        with pytest.raises(InputError, match=message):
            stream.load(replace(good, **change))
    assert all(torch.equal(a, b) for a, b in zip(vars(stream.state).values(), vars(good).values(), strict=True))
