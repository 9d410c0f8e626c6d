"""Sample-rate conversion: exact lengths, and streams that give what the whole gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.audio import Resampler, resample
from ussfast.errors import InputError

RATES = [8000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000]


def noise(channels, frames):
    return (np.random.default_rng(frames).standard_normal((channels, frames)) * 0.1).astype(np.float32)


def stream(audio, rate_in, rate_out, sizes, length=None):
    rate, done, parts = Resampler(len(audio), rate_in, rate_out), 0, []
    for size in sizes:
        parts.append(rate.push(audio[:, done : done + size]))
        done += size
    parts += [rate.push(audio[:, done:]), rate.flush(length)]
    assert all(part.dtype == np.float32 and part.flags.c_contiguous for part in parts)
    return np.concatenate(parts, axis=1)


@settings(max_examples=40, deadline=None)
@given(
    rates=st.tuples(st.sampled_from(RATES), st.sampled_from(RATES)),
    channels=st.integers(1, 3),
    frames=st.integers(0, 6000),
    sizes=st.lists(st.integers(0, 2000), max_size=6),
)
def test_stream_equals_whole(rates, channels, frames, sizes):
    audio = noise(channels, frames)
    whole = resample(audio, *rates)
    assert abs(whole.shape[1] - frames * rates[1] / rates[0]) <= 0.5
    np.testing.assert_allclose(stream(audio, *rates, sizes), whole, atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    rate_in=st.integers(1000, 200_000),
    rate_out=st.integers(1000, 200_000),
    frames=st.integers(1, 3000),
    size=st.integers(1, 3000),
)
def test_there_and_back_keeps_the_length(rate_in, rate_out, frames, size):
    audio = noise(1, frames)
    there = resample(audio, rate_in, rate_out)
    back = resample(there, rate_out, rate_in, length=frames)
    assert back.shape == audio.shape
    np.testing.assert_allclose(
        stream(there, rate_out, rate_in, [size], length=frames), back, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("rate_out", [32_000, 48_000, 96_000])
def test_tones_keep_time_and_level(rate_out):
    def tone(rate):
        return np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)

    there = resample(tone(44_100), 44_100, rate_out)
    assert there.shape == (rate_out,) and there.dtype == np.float32
    middle = slice(rate_out // 4, -rate_out // 4)
    np.testing.assert_allclose(there[middle], tone(rate_out)[middle], atol=1e-5)


def test_what_the_lower_rate_cannot_hold_is_removed():
    high = np.sin(2 * np.pi * 12_000 * np.arange(48_000) / 48_000)
    assert np.abs(resample(high, 48_000, 16_000)[1000:-1000]).max() < 1e-5


def test_equal_rates_change_nothing():
    audio = noise(2, 100)
    np.testing.assert_array_equal(stream(audio, 44_100, 44_100, [30, 0, 50]), audio)
    copy = resample(audio, 44_100, 44_100)
    np.testing.assert_array_equal(copy, audio)
    assert not np.shares_memory(copy, audio)
    assert resample(audio, 8000, 8000, length=99).shape == (2, 99)
    assert resample(audio, 8000, 8000, length=101).shape == (2, 101)


def test_input_may_be_read_only_strided_or_float64():
    audio = noise(2, 1000)
    expected = resample(audio, 8000, 16_000)
    locked = audio.copy()
    locked.flags.writeable = False
    for same in (locked, np.asfortranarray(audio), audio.astype(np.float64), np.repeat(audio, 2, 1)[:, ::2]):
        np.testing.assert_array_equal(resample(same, 8000, 16_000), expected)
    assert resample(np.zeros((2, 0)), 8000, 16_000).shape == (2, 0)


def test_a_resampler_can_be_used_again():
    audio, rate = noise(1, 5000), Resampler(1, 44_100, 16_000)
    first = [rate.push(audio), rate.flush()]
    again = [rate.push(audio), rate.flush()]
    rate.push(audio)
    rate.reset()
    third = [rate.push(audio), rate.flush()]
    for later in (again, third):
        np.testing.assert_array_equal(np.concatenate(later, 1), np.concatenate(first, 1))


@pytest.mark.parametrize(
    "bad", [0, -8000, 768_001, 44_100.5, "48000", None, True, float("nan"), float("inf")]
)
def test_bad_rates(bad):
    with pytest.raises(InputError, match="rate_in must be a whole number of Hz from 1 to 768000, not"):
        Resampler(1, bad, 48_000)
    with pytest.raises(InputError, match="rate_out must be a whole number of Hz"):
        resample(np.zeros(9), 48_000, bad)


def test_numbers_that_are_whole_are_good_rates():
    assert Resampler(1, 44_100.0, np.int64(768_000)).rate_in == 44_100


def test_other_bad_settings():
    with pytest.raises(InputError, match="100 Hz and 768000 Hz are more than a factor of 1000 apart"):
        Resampler(1, 100, 768_000)
    with pytest.raises(InputError, match="channels must be at least 1, not 0"):
        Resampler(0, 1000, 2000)
    rate = Resampler(2, 8000, 16_000)
    for shape in [(3, 10), (10,), (1, 2, 10)]:
        with pytest.raises(InputError, match=r"\[2, samples\] expected, not \["):
            rate.push(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match=r"\[samples\] or \[channels, samples\] expected, not \[1, 2, 3\]"):
        resample(np.zeros((1, 2, 3)), 8000, 16_000)
    with pytest.raises(InputError, match=r"a length of 30 is out of reach, 10 samples become 20 \(\+-4\)"):
        resample(np.zeros(10), 8000, 16_000, length=30)
    rate = Resampler(1, 8000, 8000)
    rate.push(np.zeros((1, 10)))
    with pytest.raises(InputError, match="a length of 9 is out of reach, 10 samples are out already"):
        rate.flush(length=9)
