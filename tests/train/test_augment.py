"""Changes of sound: each does what its parameters say, row by row, and leaves rows without a change alone."""

import numpy as np
import pytest
import torch

from ussfast.errors import InputError
from ussfast.train import augment

RATE = 16000
EDGE = 1600  # samples at either end that measurements leave out


def sine(hertz, seconds=2.5, rows=1, amplitude=0.3):
    time = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return (amplitude * torch.sin(2 * torch.pi * hertz * time)).float().repeat(rows, 1)


def pitch_of(row):
    """Frequency in Hz of a steady tone, from how its phase goes on: far finer than the bins of a spectrum."""
    row = row.double().numpy()[EDGE:-EDGE]
    size, hop = 4096, 64
    window = np.hanning(size)
    one, other = np.fft.rfft(row[:size] * window), np.fft.rfft(row[hop : size + hop] * window)
    peak = np.abs(one).argmax()
    turns = np.angle(other[peak] / one[peak]) / (2 * np.pi)
    return (turns + round(peak * hop / size - turns)) * RATE / hop


def cents(found, wanted):
    return 1200 * np.log2(found / wanted)


def clicks(spacing, count, rows=1):
    x = torch.zeros(rows, count)
    x[:, spacing // 2 :: spacing] = 1.0
    return x


def positions(row, threshold=0.3):
    """Where the energy of bursts that are at least 100 samples apart has its centre."""
    power = np.convolve(row.double().numpy() ** 2, np.ones(80), "same")
    loud = np.flatnonzero(power > threshold**2 * power.max())
    groups = np.split(loud, np.flatnonzero(np.diff(loud) > 100) + 1)
    return np.array([np.average(g, weights=power[g]) for g in groups])


@pytest.mark.parametrize("hertz", [110.0, 440.0, 3000.0])
def test_pitch_moves_by_the_semitones_asked_for(hertz):
    semitones = np.array([-3.0, -1.3, 0.5, 3.0])
    x = sine(hertz, rows=4)
    made = augment.change_speed(x, 2 ** (semitones / 12), np.ones(4), RATE, 2 * RATE)
    assert made.shape == (4, 2 * RATE) and made.dtype == torch.float32
    for row, steps in zip(made, semitones, strict=True):
        assert abs(cents(pitch_of(row), hertz) - 100 * steps) < 3
    level = made[:, EDGE:-EDGE].square().mean(-1).sqrt() / (0.3 / 2**0.5)
    assert level.min() > 0.98 and level.max() < 1.02


@pytest.mark.parametrize("factor", [0.83, 0.95, 1.2])
def test_stretch_moves_the_spacing_of_clicks(factor):
    made = augment.stretch_rows(clicks(2400, 3 * RATE, rows=2), [factor, 1.0], RATE, 2 * RATE)
    found = positions(made[0])
    assert len(found) == pytest.approx(2 * RATE / (2400 * factor), abs=1)
    assert abs(np.diff(found).mean() / (2400 * factor) - 1) < 0.005
    # Every click is within a few milliseconds of where it belongs, however late: nothing drifts.
    assert np.abs(found - factor * (1200 + 2400 * np.arange(len(found)))).max() < 0.008 * RATE


@pytest.mark.parametrize("factor", [0.83, 1.2])
def test_stretch_leaves_pitch_and_level(factor):
    made = augment.stretch_rows(sine(440.0), [factor], RATE, 2 * RATE)[0]
    assert abs(cents(pitch_of(made), 440)) < 3
    assert made[EDGE:-EDGE].square().mean().sqrt() == pytest.approx(0.3 / 2**0.5, rel=0.02)


def test_an_onset_stays_short():
    """Energy of one click within 2 ms of its peak, over all."""
    x = torch.zeros(1, RATE)
    x[0, 8000] = 1.0
    power = augment.stretch_rows(x, [1.2], RATE, RATE)[0].square()
    peak = int(power.argmax())
    assert power[peak - 32 : peak + 33].sum() > 0.9 * power.sum() > 0


def voice(seconds, slower=1.0):
    """Thirty harmonics of a pitch that swings three times a second, or slower by a factor; steady formants."""
    time = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    rate = 2 * torch.pi * 3 / slower
    phase = 2 * torch.pi * 120 * (time + 0.06 / rate * torch.sin(rate * time))
    weight = [1 / (1 + ((number * 120 - 900) / 600) ** 2) for number in range(1, 31)]
    return sum(w * torch.cos(number * phase + number**2) for number, w in enumerate(weight, 1))[None].float() * 0.1


@pytest.mark.parametrize("factor", [0.83, 1.2])
def test_partials_of_a_moving_voice_stay_together(factor):
    made, wanted = augment.stretch_rows(voice(3.0), [factor], RATE, 2 * RATE), voice(2.0, factor)
    spectra = torch.stft(torch.cat((made, wanted)), 512, 128, window=torch.hann_window(512), return_complex=True)
    made, wanted = spectra.abs()[..., 8:-8]
    assert 20 * torch.log10((made - wanted).norm() / wanted.norm()) < -9  # dB; -7 where every bin turns for itself


def test_pitch_and_duration_are_independent():
    x = sine(500.0)
    x[:, RATE:] = 0  # one second of sound
    made = augment.change_speed(x.repeat(2, 1), [1.15, 0.9], [0.9, 1.1], RATE, 2 * RATE)
    for row, pitch, stretch in zip(made, (1.15, 0.9), (0.9, 1.1), strict=True):
        assert abs(cents(pitch_of(row[: int(stretch * RATE)]), 500 * pitch)) < 3
        envelope = np.convolve(row.square().numpy(), np.ones(160) / 160, "same")
        end = np.flatnonzero(envelope > 0.25 * np.median(envelope[2000:10000]))[-1]
        assert abs(end / (stretch * RATE) - 1) < 0.02


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_enough_samples_are_cut(speed):
    """What lies beyond the samples needed changes nothing of what is made from them."""
    count = RATE // 2
    need = augment.samples_needed(count, speed, RATE)
    assert need < count / speed + 0.1 * RATE
    x = torch.randn(1, need + 5000)
    short, long = (augment.change_speed(part, [1.1], [speed], RATE, count) for part in (x[:, :need], x))
    assert (short - long).abs().max() < 1e-3 and short[0, -400:].std() > 0.5


def test_rows_without_a_change_come_back_untouched():
    x = torch.randn(3, 4000)
    kept = x.clone()
    changed = augment.change_speed(x, [1.0, 1.1, 1.0], [1.0, 1.0, 0.9], RATE, 3000)
    assert changed[0].equal(x[0, :3000]) and not changed[1].equal(x[1, :3000]) and not changed[2].equal(x[2, :3000])
    for made in (augment.stretch_rows(x, [1.0, 1.0, 1.3], RATE, 4000), augment.resample_rows(x, [1.0, 1.0, 1.3])):
        assert made[:2].equal(x[:2]) and not made[2].equal(x[2])
    longer = augment.change_speed(x, [1.0] * 3, [1.0] * 3, RATE, 4100)
    assert longer[:, :4000].equal(x) and not longer[:, 4000:].any()
    assert x.equal(kept)


def test_rows_do_not_depend_on_their_neighbours():
    x = torch.randn(3, 6000)
    pitch, stretch = [1.1, 0.9, 1.0], [1.0, 1.1, 0.9]
    together = augment.change_speed(x, pitch, stretch, RATE, 4000)
    alone = [augment.change_speed(x[i : i + 1], pitch[i : i + 1], stretch[i : i + 1], RATE, 4000) for i in range(3)]
    # Rounding differs with the number of rows, and turns the phases of the weakest bins.
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=0.02)


def test_resampling_is_linear_and_exact_on_tones():
    ratio = [0.8, 1.0001, 1.19]
    x = sine(1000.0, 1.0, 3)
    made = augment.resample_rows(x, ratio)
    assert made.shape == x.shape
    for row, speed in zip(made.double(), ratio, strict=True):
        time = torch.arange(RATE, dtype=torch.float64) / RATE
        wanted = 0.3 * torch.sin(2 * torch.pi * 1000 * speed * time)
        inside = slice(EDGE, int(RATE / max(1, speed)) - EDGE)
        assert (row - wanted)[inside].abs().max() < 1e-4
    noise = torch.randn(2, 3, 4000)
    one, other, both = (augment.resample_rows(part, ratio) for part in (*noise, noise.sum(0)))
    torch.testing.assert_close(one + other, both, rtol=0, atol=1e-5)


def test_faster_rows_are_limited_before_they_fold_over():
    folding = augment.resample_rows(sine(7500.0, 1.0), [1.25])  # would come back at 6625 Hz
    assert folding[:, EDGE:9000].abs().max() < 1e-3
    assert augment.resample_rows(sine(5900.0, 1.0), [1.25])[0, EDGE:9000].abs().max() > 0.29


def test_the_equaliser_has_the_gains_asked_for():
    bands = augment.equaliser_bands(RATE)
    assert bands[0] == pytest.approx(60) and bands[-1] < RATE / 2 and (np.diff(np.log(bands)) > 0.5).all()
    gains = np.array([[-6.0, 3.0, 6.0, -3.0, 0.0, 5.0], [0.0] * 6])
    for number in (1, 2, 3, 5):
        x = sine(bands[number], 2.0, 2)
        made = augment.equalise(x, gains, RATE)
        change = 20 * torch.log10(made[:, EDGE:-EDGE].std(-1) / x[:, EDGE:-EDGE].std(-1))
        assert change[0] == pytest.approx(gains[0, number], abs=0.1)
        torch.testing.assert_close(made[1], x[1], rtol=0, atol=1e-5)
    impulse = torch.zeros(1, RATE)
    impulse[0, RATE // 2] = 1
    made = augment.equalise(impulse, gains[:1], RATE)[0]
    assert made.abs().argmax() == RATE // 2 and made[: RATE // 4].abs().max() < 1e-3  # no delay, no wrapping
    late = impulse.roll(RATE // 2 - 1)
    assert augment.equalise(late, gains[:1], RATE)[0, : RATE // 100].abs().max() < 1e-6
    response = 20 * torch.fft.rfft(made).abs().log10()
    assert response.diff()[40:].abs().max() < 0.2 and response.min() > -6.1 and response.max() < 6.1


def decay(response, rate):
    """Seconds per 60 dB from backward integration, between -5 and -35 dB."""
    left = 10 * np.log10(np.cumsum(response.double().numpy()[::-1] ** 2)[::-1] + 1e-30)
    left -= left[0]
    use = np.flatnonzero((left < -5) & (left > -35))
    return -60 / np.polyfit(use / rate, left[use], 1)[0]


def test_reverberation_decays_in_the_time_asked_for():
    x = torch.zeros(3, 2 * RATE)
    x[:, 100] = 1.0
    seconds, wet = [0.2, 0.5, 0.9], [-10.0, 0.0, -3.0]
    made = augment.reverberate(x, seconds, wet, RATE, torch.randn(3, RATE * 3 // 2))
    assert made.shape == x.shape and not made[:, :99].abs().max() > 1e-5
    torch.testing.assert_close(made[:, 100], torch.ones(3), rtol=0, atol=1e-4)  # the direct sound, undelayed
    for row, t60, level in zip(made[:, 101:], seconds, wet, strict=True):
        assert decay(row, RATE) == pytest.approx(t60, rel=0.2)
        assert 10 * row.square().sum().log10() == pytest.approx(level, abs=0.1)
        # Single echoes first, then one at every sample.
        assert (row[: RATE // 200].abs() > 1e-5).float().mean() < 0.1
        assert (row[RATE // 20 : RATE // 15].abs() > 1e-5).float().mean() > 0.95


def test_few_echoes_carry_the_energy_of_many():
    x = torch.zeros(200, RATE // 2)
    x[:, 0] = 1.0
    made = augment.reverberate(x, [0.4] * 200, [0.0] * 200, RATE, torch.randn(200, RATE // 2))[:, 1:].square().mean(0)
    blocks = 10 * made[: RATE // 10].unflatten(0, (5, -1)).mean(-1).log10()  # of 20 ms
    np.testing.assert_allclose(blocks.diff(), -3.0, atol=0.6)


def test_reverberation_is_cut_to_the_input():
    x = torch.randn(1, 3000)
    made = augment.reverberate(x, [0.5], [0.0], RATE, torch.randn(1, 9000))
    assert made.shape == x.shape and abs(made[0, 0] - x[0, 0]) < 1e-4  # nothing wraps around to the start


def test_the_band_limit_is_smooth_and_complete():
    x = torch.randn(3, RATE)
    power = torch.fft.rfft(augment.band_limit(x, [0.25, 0.6, 1.0])).abs() / torch.fft.rfft(x).abs()
    for row, edge in zip(power, (2000, 4800), strict=False):
        assert row[edge + 1 :].max() < 1e-3 and (row[: int(0.94 * edge)] - 1).abs().max() < 1e-3
        assert row[1:-1].diff().abs().max() < 0.05  # a brick wall would be 1
        assert 0.4 < row[int(0.975 * edge)] < 0.6
    torch.testing.assert_close(augment.band_limit(x, [0.25, 0.6, 1.0])[2], x[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_that_cannot_be(bad):
    x = torch.zeros(2, 100)
    calls = (
        lambda: augment.change_speed(x, [1.0, bad], [1.0, 1.0], RATE, 100),
        lambda: augment.stretch_rows(x, [1.0, bad], RATE, 100),
        lambda: augment.resample_rows(x, [1.0, bad]),
        lambda: augment.reverberate(x, [1.0, bad], [0.0, 0.0], RATE, x),
        lambda: augment.band_limit(x, [1.0, bad]),
    )
    for call in calls:
        with pytest.raises(InputError, match="must be positive, got"):
            call()
    with pytest.raises(InputError, match="need noise for 2 rows, got 1"):
        augment.reverberate(x, [1.0, 1.0], [0.0, 0.0], RATE, x[:1])
