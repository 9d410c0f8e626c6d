"""Dynamic mixing: chains of prompts, what fills them, levels, dropped prompts, bands."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import mixer
from tiny import RATE, STEMS, TONE, tone_of

from ussfast.data.pool import AudioPool, Item
from ussfast.errors import InputError
from ussfast.train.chains import FIRST, NEXT, REPEATABLE, draw_chain
from ussfast.train.mix_config import MixConfig, PromptSet


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(2, 4))
def test_forbidden_prompts_never_stand_together(seed, count):
    chain = draw_chain(np.random.default_rng(seed), count)
    assert len(chain) == count and set(chain) <= NEXT.keys()
    for name in set(chain) - {"speech", "sfx"}:
        assert chain.count(name) == 1
    for some, other in (("sfx", "sfxbg"), *(("musicbg", stem) for stem in STEMS)):
        assert not {some, other} <= set(chain)


def test_chains_follow_the_table():
    rng, draws = np.random.default_rng(0), 6000
    pairs = [draw_chain(rng, 2) for _ in range(draws)]
    for first, probability in FIRST.items():
        seconds = [second for one, second in pairs if one == first]
        # Five standard deviations of a share.
        assert abs(len(seconds) / draws - probability) < 5 * np.sqrt(probability * (1 - probability) / draws)
        row = NEXT[first]
        for second, weight in row.items():
            p = weight / sum(row.values())
            slack = 5 * np.sqrt(p * (1 - p) / len(seconds))
            assert abs(seconds.count(second) / len(seconds) - p) <= slack, (first, second)


def test_the_table_is_whole():
    assert sum(FIRST.values()) == pytest.approx(1)
    assert FIRST.keys() == NEXT.keys() == {*TONE, "musicbg"}
    for name, row in NEXT.items():
        assert row.keys() == NEXT.keys() and sum(row.values()) == pytest.approx(1, abs=0.02), name
        assert (row[name] > 0) == (name in REPEATABLE)
        assert all((row[other] > 0) == (NEXT[other][name] > 0) for other in NEXT), f"{name}: forbidden one way only"


def test_mixtures_of_a_batch_have_sets_of_their_own(pool):
    pairs, triple = (("speech", "sfxbg"), ("sfx", "sfx")), ("speech", "sfx", "bass")
    sets = (PromptSet(pairs[0], 0.6), PromptSet(pairs[1], 0.3), PromptSet(triple, 0.1))
    drawn = mixer(pool, rows=40, sets=sets)
    batches = [drawn.batch().prompts for _ in range(100)]
    assert all(set(batch) <= set(pairs) or set(batch) == {triple} for batch in batches)
    names = [item for batch in batches for item in batch if len(item) == 2]
    assert 70 <= sum(len(batch[0]) == 2 for batch in batches) < 100
    assert 0.6 < names.count(pairs[0]) / len(names) < 0.73
    # A prompt can only go where it is not repeated.
    drawn = mixer(pool, rows=40, sets=sets, dropout=1.0)
    left = {item for _ in range(20) for item in drawn.batch().prompts if len(item) == 1}
    assert left == {("speech",), ("sfxbg",)}


def test_levels_lie_in_their_ranges(pool):
    drawn = mixer(pool, quietest_db=(-1.0, -6.0))
    for name, least in (("speech", -1.0), ("drums", -1.0), ("sfx", -6.0), ("musicbg", -6.0)):
        levels = 20 * np.log10([drawn._gain(name) for _ in range(200)])
        assert least <= levels.min() < 0.9 * least and -0.1 * -least < levels.max() <= 0


def test_full_band_speech_comes_first_if_asked():
    rng, items = np.random.default_rng(0), []
    for rate in (RATE // 2, RATE, 2 * RATE):
        for prompt in ("speech", "sfx", *STEMS):
            items.append(Item("x", prompt, f"{prompt}-{rate}", "train", "permissive", rate))
    pool = AudioPool(items, (rng.standard_normal(RATE).astype(np.float32) for _ in items), RATE)

    def rates(share):
        drawn = mixer(pool, full_band=share)
        return [pool.items[drawn._pick("speech", set(), 100)[0]].native_rate for _ in range(100)]

    assert set(rates(1.0)) == {RATE, 2 * RATE} and 10 < rates(0.0).count(RATE // 2) < 60


@pytest.mark.parametrize("seed", range(6))
def test_batches_are_what_they_say(pool, seed):
    batch = mixer(pool, seed, built_background=0.0).batch()
    count, sources, samples = batch.references.shape
    assert samples == 3200 and count == 12 // sources and 2 <= sources <= 4
    assert batch.mixture.shape == (count, samples) and len(batch.prompts) == count
    assert {len(names) for names in batch.prompts} == {sources}
    np.testing.assert_allclose(batch.references.sum(1), batch.mixture, atol=1e-6)
    for names, references in zip(batch.prompts, batch.references.numpy(), strict=True):
        for name, heard in zip(names, tone_of(references), strict=True):
            assert heard == name or (name == "musicbg" and heard in STEMS)  # built: there is no pool of it


def test_backgrounds_are_built_from_their_parts(pool):
    sets = (PromptSet(("sfxbg", "musicbg"), 1.0),)
    built = mixer(pool, sets=sets, built_background=1.0)
    for batch in (built.batch() for _ in range(5)):
        background, music = batch.references.numpy().transpose(1, 0, 2)
        assert set(tone_of(background)) == {"sfx"} and set(tone_of(music)) <= set(STEMS)
    taken = mixer(pool, sets=sets, built_background=0.0).batch()
    assert set(tone_of(taken.references[:, 0].numpy())) == {"sfxbg"}


def test_batches_depend_on_the_generator_alone(pool):
    one, other, next_one = mixer(pool, 3), mixer(pool, 3), mixer(pool, 4)
    for _ in range(3):
        a, b, c = one.batch(), other.batch(), next_one.batch()
        assert a.prompts == b.prompts and a.mixture.equal(b.mixture) and a.references.equal(b.references)
        assert a.mixture.shape != c.mixture.shape or not a.mixture.equal(c.mixture)
    later = mixer(pool)
    later.rng.bit_generator.state = one.rng.bit_generator.state
    assert later.batch().mixture.equal(one.batch().mixture)


def test_levels(pool):
    wide = mixer(pool, rows=80, sets=(PromptSet(("speech", "sfx"), 1.0),))
    levels = np.concatenate([10 * wide.batch().references.square().mean(-1).log10().numpy() for _ in range(5)])
    for column, low in ((0, -10), (1, -20)):
        found = levels[:, column]
        assert low - 0.01 <= found.min() < low + 2 and -2 < found.max() <= 0.01
        assert abs(found.mean() - low / 2) < 1.5


def test_aligned_stems_come_from_one_song_at_one_position(pool):
    sets = (PromptSet(STEMS, 1.0),)

    def songs(aligned):
        batch = mixer(pool, rows=80, sets=sets, aligned=aligned).batch()
        peaks = np.abs(np.fft.rfft(batch.references.numpy() * np.hanning(3200))).argmax(-1) * RATE / 3200
        # Tones of the second song are 20 Hz above those of the first.
        return [[int(f - TONE[name] > 10) for f, name in zip(row, STEMS, strict=True)] for row in peaks]

    assert {tuple(row) for row in songs(1.0)} == {(0,) * 4, (1,) * 4}
    assert len({tuple(row) for row in songs(0.0)}) > 2


@pytest.mark.parametrize(("names", "left"), [
    (("speech", "speech", "sfxbg"), {("speech", "speech")}),
    (("speech", "sfxbg"), {("speech",), ("sfxbg",)}),
    (("drums", "bass", "vocals", "other"), {("bass", "vocals", "other"), ("drums", "vocals", "other"),
                                            ("drums", "bass", "other"), ("drums", "bass", "vocals")}),
])  # fmt: skip
def test_dropout_leaves_out_one_prompt_that_is_not_repeated(pool, names, left):
    drawn = mixer(pool, rows=24, sets=(PromptSet(names, 1.0),), dropout=1.0, built_background=0.0)
    seen = set()
    for _ in range(6):
        batch = drawn.batch()
        assert len(batch.prompts) == 24 // (len(names) - 1) and batch.references.shape[1] == len(names) - 1
        seen |= set(batch.prompts)
        lost = (batch.mixture - batch.references.sum(1)).numpy()
        for kept, heard, references in zip(batch.prompts, tone_of(lost), batch.references.numpy(), strict=True):
            assert sorted((*kept, heard)) == sorted(names) and tone_of(references) == list(kept)
    assert seen == left


def test_dropout_leaves_repeated_prompts_alone(pool):
    batch = mixer(pool, sets=(PromptSet(("sfx", "sfx"), 1.0),), dropout=1.0).batch()
    assert set(batch.prompts) == {("sfx", "sfx")}
    np.testing.assert_allclose(batch.references.sum(1), batch.mixture, atol=1e-6)
    for seed in range(5):  # chains too always keep something to drop
        dropped = mixer(pool, seed, dropout=1.0).batch()
        assert (dropped.mixture - dropped.references.sum(1)).abs().amax(-1).min() > 1e-3


def test_the_band_limit_is_the_lowest_native_band():
    rng = np.random.default_rng(0)
    items, arrays = [], []
    template = Item("x", "speech", "g", "train", "permissive", RATE)
    for prompt in TONE:
        for group in "ab":
            rate = {"speech": 4000, "sfxbg": 6000}.get(prompt, RATE)
            items.append(replace(template, prompt=prompt, group=group, song=None, native_rate=rate))
            arrays.append(0.1 * rng.standard_normal(8000).astype(np.float32))
    white = AudioPool(items, arrays, RATE)

    def energy_above(names, hz, band_limit):
        sets = (PromptSet(names, 1.0),)
        batch = mixer(white, sets=sets, band_limit=band_limit, built_background=0.0).batch()
        power = batch.references.double().numpy()
        power = np.abs(np.fft.rfft(power)) ** 2
        bins = np.fft.rfftfreq(3200, 1 / RATE) > hz
        return power[..., bins].sum(-1) / power.sum(-1)

    for names, edge in ((("speech", "sfxbg"), 2000), (("sfx", "speech"), 2000), (("drums", "sfxbg"), 3000)):
        assert energy_above(names, edge + 5, 1.0).max() < 1e-9  # in every source
        assert energy_above(names, edge - 100, 1.0).min() > 1e-3  # and not lower than that
        assert energy_above(names, edge + 5, 0.0).min() > 0.1
    assert energy_above(("drums", "sfx"), 3000, 1.0).min() > 0.1  # nothing to limit


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seconds": 0}, r"MixConfig\.seconds must be 0\.01 to 600, got 0"),
        ({"rows": 3}, "rows must be 4 to 4096, got 3"),
        ({"sets": (PromptSet(("speech", "sfx"), 0.6), PromptSet(("speech", "bass"), 0.6))}, "at most 1 together"),
        ({"sets": (PromptSet(("speech", "speach"), 0.5),)}, "2 to 12 of speech, sfx"),
        ({"sets": (PromptSet(("speech",), 0.5),)}, "2 to 12 of"),
        ({"sets": (PromptSet(("sfx",) * 13, 0.5),)}, "2 to 12 of"),
        ({"sets": ({"prompts": ["speech", "sfx"], "share": -0.5},)}, r"sets\[0\]\.share must be 0 to 1, got -0\.5"),
        ({"query": 1.5}, "query must be 0 to 1, got 1.5"),
        ({"any_band": -0.1}, "any_band must be 0 to 1"),
        ({"query_seconds": 0.0}, "query_seconds must be 0.01 to 600"),
        ({"quietest_db": (-1.0,)}, "quietest_db must have 2 entries, got a tuple of 1"),
        ({"rows": 4, "absent": 0.1}, "rows >= 5 where absent prompts"),
        ({"rows": 5, "absent": 0.1, "sets": (PromptSet(("sfx",) * 5, 0.5),)}, "needs 2 to 4 of"),
    ],
)
def test_mixing_that_cannot_work(settings, says):
    with pytest.raises(InputError, match=says):
        MixConfig(**settings)


def test_prompts_without_audio_are_named(pool):
    kept = [i for i, item in enumerate(pool.items) if item.prompt not in ("bass", "sfxbg")]
    arrays = [pool.crops(np.array([i]), np.array([0]), 800)[0].numpy() for i in kept]
    with pytest.raises(InputError, match=r"no training items for the prompts \['bass'\]"):
        mixer(AudioPool([pool.items[i] for i in kept], arrays, RATE))
