"""Bands that say nothing of what a sound is: voices made full-band, other sounds limited."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from running import mixer
from tiny import STEMS

from ussfast.data.pool import AudioPool, Item
from ussfast.errors import InputError
from ussfast.train.augment import band_limit
from ussfast.train.mix_config import PromptSet
from ussfast.train.rendering import AugmentConfig, Plan, render_crops
from ussfast.train.widening import widen

RATE = 32000
SECONDS = 2.0


def voice(edge, seed=0, tilt_db=0.0):
    """Noise in syllables, nothing above `edge` Hz, falling by `tilt_db` per octave from 1 kHz on; quiet in between."""
    rng = np.random.default_rng(seed)
    count = round(SECONDS * RATE)
    time = np.arange(count) / RATE
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hertz = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 1000)
    spectrum *= 10 ** (-tilt_db * np.log2(hertz / 1000) / 20)
    sound = np.fft.irfft(spectrum, n=count) * (0.02 + np.sin(2 * np.pi * 2 * time) ** 8)
    sound = torch.from_numpy((0.1 * sound / sound.std()).astype(np.float32))
    return band_limit(sound[None], [2 * edge / RATE])


def band(x, low, high):
    """What is between two frequencies in Hz."""
    spectrum = torch.fft.rfft(x.double())
    hertz = torch.linspace(0, RATE / 2, spectrum.shape[-1])
    return torch.fft.irfft(spectrum * ((hertz >= low) & (hertz < high)), n=x.shape[-1])


def db(x):
    return 10 * x.square().mean(-1).log10()


def density(x, low, high):
    return db(band(x, low, high)) - 10 * np.log10(high - low)


def envelope(x, low, high):
    return band(x, low, high).square().unflatten(-1, (-1, RATE // 50)).mean(-1).sqrt()


@pytest.mark.parametrize("edge", [8000, 11025])
def test_what_is_added_swells_with_the_voice(edge):
    x = voice(edge, tilt_db=6.0)
    made = widen(x, [edge], [12.0], RATE)
    assert made.shape == x.shape
    assert (db(band(x, edge, 16000)) < -80).all() and (db(band(made, edge, 16000)) > -60).all()
    for low, high in ((edge, 1.15 * edge), (1.2 * edge, 16000)):
        pair = torch.stack((envelope(made, low, high)[0], envelope(x, edge / 2, 0.9 * edge)[0]))
        assert torch.corrcoef(pair)[0, 1] > 0.9
        assert pair[0].quantile(0.1) < 0.1 * pair[0].max()  # gaps stay gaps
    # Below the join it is what it was.
    kept = band(made - x, 0, 0.85 * edge)
    assert db(kept) < db(x) - 60


@pytest.mark.parametrize("fall", [6.0, 18.0])
def test_the_level_falls_from_the_edge_on(fall):
    made = widen(voice(8000), [8000.0], [fall], RATE)
    at_edge = density(made, 6500, 7300)
    # Smooth at the join: neither gap nor hump.
    for low in (7000, 7300, 7600, 7900, 8200):
        assert density(made, low, low + 300) == pytest.approx(float(at_edge), abs=4)
    for low in (9000, 11000, 13000, 15000):
        octaves = np.log2((low + 250) / 7360)
        assert density(made, low, low + 500) - at_edge == pytest.approx(-fall * octaves, abs=2.5)
    # Louder copies are the same copies.
    lifted = widen(voice(8000), [8000.0], [fall], RATE, [6.0])
    for low in (9000, 11000, 13000, 15000):
        assert density(lifted, low, low + 500) - density(made, low, low + 500) == pytest.approx(6, abs=0.5)


def test_the_tilt_of_the_voice_is_not_repeated():
    made = widen(voice(8000, tilt_db=18.0), [8000.0], [6.0], RATE)
    levels = [float(density(made, low, low + 500)) for low in range(7000, 15000, 500)]
    assert np.diff(levels).max() < 2 and levels[0] - levels[-1] == pytest.approx(6, abs=4)


def test_the_real_edge_is_found():
    """A file of 16 kHz that ends at 7 kHz has no hole in between, nor one that ends at 6 kHz above a faint noise."""
    x = torch.cat((voice(7000), voice(6000)))
    x[1] += 1e-5 * torch.randn(x.shape[1], generator=torch.Generator().manual_seed(0))
    made = widen(x, [8000.0, 8000.0], [6.0, 6.0], RATE)
    assert (density(x, 7100, 7900) < density(x, 5000, 5600) - 60).all()
    assert (density(made, 7100, 7900) > density(made, 5000, 5600) - 8).all()


def test_a_steady_tone_is_copied_as_a_tone():
    """Frames fit together: a partial of the voice becomes a partial, no noise."""
    time = torch.arange(2 * RATE, dtype=torch.float64) / RATE
    x = sum(torch.cos(2 * torch.pi * 250 * k * time + k * k) for k in range(1, 31))[None].float() * 0.05
    made = band(widen(x, [7750.0], [6.0], RATE), 8500, 12000)[0]
    power = torch.fft.rfft(made[RATE // 2 : -RATE // 2] * torch.hann_window(RATE)).abs().square()
    strongest = power.topk(60).values.sum()
    assert strongest > 0.95 * power.sum() > 0


def test_rows_of_their_own():
    x = torch.cat((voice(8000, 1), voice(11000, 2), voice(16000, 3), torch.zeros(1, round(SECONDS * RATE))))
    edges, falls = [8000, 11025, 16000, 8000], [6.0, 12.0, 6.0, 6.0]
    made = widen(x, edges, falls, RATE)
    torch.testing.assert_close(made[2], x[2], rtol=0, atol=1e-5)  # has the whole band
    assert not made[3].any() and made.isfinite().all()
    for row in range(2):
        alone = widen(x[row : row + 1], edges[row : row + 1], falls[row : row + 1], RATE)
        torch.testing.assert_close(made[row], alone[0], rtol=0, atol=1e-5)
    assert widen(x[:, :100], edges, falls, RATE).shape == (4, 100)


def wide_pool():
    """Two narrow speakers and a full-band one; everything else is white."""
    rng = np.random.default_rng(0)
    template = Item("x", "speech", "g", "train", "permissive", RATE)
    items = [replace(template, group=str(rate), speaker=str(rate), native_rate=rate) for rate in (16000, 22050, RATE)]
    arrays = [voice(item.native_rate / 2, seed)[0].numpy() for seed, item in enumerate(items)]
    for prompt in ("sfx", "sfxbg", *STEMS):
        items.append(replace(template, prompt=prompt, group=prompt, label=prompt))
        arrays.append(0.1 * rng.standard_normal(round(SECONDS * RATE)))
    return AudioPool(items, arrays, RATE)


POOL = wide_pool()


def planned(names, count=300, **augment):
    drawn, plan = mixer(POOL, augment=AugmentConfig(**augment)), Plan()
    edges = [drawn._plan(names, plan) for _ in range(count)]
    return plan.crops, edges


def test_who_is_extended():
    crops, edges = planned(("speech", "sfx"), extend=0.5, extend_db=(8.0, 10.0))
    narrow = [c for c in crops if POOL.items[c.item].native_rate < RATE]
    falls = [c.change.fall_db for c in narrow if c.change.fall_db is not None]
    assert 0.3 < len(falls) / len(narrow) < 0.7
    assert 8 <= min(falls) < 8.3 and 9.7 < max(falls) <= 10
    lifts = [c.change.lift_db for c in planned(("speech", "sfx"), extend=1.0, extend_lift_db=(-3.0, 9.0))[0]]
    assert -3 <= min(lifts) < -2.5 and 8 < max(lifts) <= 9 and {c.change.lift_db for c in crops} == {0.0}
    assert all(c.change.fall_db is None for c in crops if POOL.items[c.item].native_rate == RATE)
    # An extended voice does not lower the edge of its mixture, one that is not does.
    for speech, edge in zip(crops[::2], edges, strict=True):
        native = POOL.items[speech.item].native_rate / RATE
        assert edge == (1.0 if speech.change.fall_db is not None else native)


def test_extended_voices_are_full_band_in_mixtures():
    settings = {"rows": 24, "sets": (PromptSet(("speech", "sfx"), 1.0),)}
    plain = mixer(POOL, 1, **settings).batch().references
    wide = mixer(POOL, 1, augment=AugmentConfig(extend=1.0), **settings).batch().references
    assert (db(band(plain[:, 0], 12000, 16000)) < -60).any()
    assert (db(band(wide[:, 0], 12000, 16000)) > -50).all() and (db(band(wide[:, 1], 12000, 16000)) > -30).all()
    assert (db(wide)[:, 0] > -10.01).all()  # levels are drawn for what is heard


@pytest.mark.parametrize("speed", [0.0, 1.0])
def test_the_edge_moves_with_the_pitch(speed):
    crops, _ = planned(("speech", "sfx"), 40, extend=1.0, extend_db=(6.0, 6.0), speed=speed, pitch_semitones=6.0)
    chosen = [c for c in crops if POOL.items[c.item].native_rate == 16000]
    x = render_crops(POOL, chosen, 3 * RATE // 4, np.random.default_rng(0))
    for low in (5000, 7000, 9000, 12000, 15000):  # no hole anywhere
        assert (density(x, low, low + 800) > density(x, 2000, 3000) - 18).all()


def test_clips_of_queries_stay_as_they_are():
    sets = (PromptSet(("speech", "sfx"), 1.0),)
    batch = mixer(POOL, 1, rows=24, sets=sets, query=1.0, query_seconds=0.4, augment=AugmentConfig(extend=1.0)).batch()
    clips = [clip for clip, (item, place) in zip(batch.queries, batch.asked.tolist(), strict=True)
             if batch.prompts[item][place] == "speech"]  # fmt: skip
    assert clips and min(float(db(band(clip, 12000, 16000))) for clip in clips) < -60


def test_what_is_limited():
    crops, edges = planned(("speech", "sfx", "drums"), limit_others=0.4)
    assert all(c.change.edge == 1 for c in crops[::3])
    others = [c.change.edge * RATE / 2 for part in (1, 2) for c in crops[part::3]]
    limited = [edge for edge in others if edge < 16000]
    assert 0.3 < len(limited) / len(others) < 0.5
    assert 4000 <= min(limited) < 4300 and 15500 < max(limited)
    plain, _ = planned(("speech", "sfx", "drums"))
    assert all(c.change.edge == 1 for c in plain)
    assert min(edges) >= 0.5  # the mixture's own edge is another matter


def test_what_is_limited_has_nothing_above_its_edge():
    crops, _ = planned(("sfx", "drums"), 20, limit_others=0.7, reverb=0.5)
    x = render_crops(POOL, crops, RATE // 2, np.random.default_rng(0))
    power = torch.fft.rfft(x.double()).abs().square()
    for row, crop in zip(power, crops, strict=True):
        edge = round(crop.change.edge * (len(row) - 1))
        assert row[edge + 2 :].sum() < 1e-9 * row.sum()
        assert row[int(0.85 * edge) : int(0.94 * edge)].mean() > 0.1 * row[: int(0.8 * edge)].mean()
    assert len({c.change.edge for c in crops}) > 20


def test_switched_off_they_draw_nothing():
    one = mixer(POOL, 3)
    other = mixer(POOL, 3, augment=AugmentConfig(extend=0.0, extend_db=(1.0, 2.0), limit_others=0.0))
    for _ in range(2):
        assert one.batch().mixture.equal(other.batch().mixture)
    assert one.rng.bit_generator.state == other.rng.bit_generator.state


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"extend": 1.1}, "must be 0 to 1, got"),
        ({"limit_others": -0.1}, "must be 0 to 1, got"),
        ({"extend_db": (-1.0, 6.0)}, "extend_db must be the least and the most, 0.0 to 20"),
        ({"extend_db": (9.0, 6.0)}, "extend_db must be"),
        ({"extend_db": (9.0,)}, "extend_db must be"),
        ({"extend_lift_db": (-30.0, 0.0)}, "extend_lift_db must be the least and the most, -20.0 to 20"),
    ],
)
def test_bands_that_cannot_be(settings, says):
    with pytest.raises(InputError, match=says):
        AugmentConfig(**settings)
