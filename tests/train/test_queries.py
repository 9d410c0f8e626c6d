"""What a model is asked for beyond the sources of a mixture: absent prompts, silent ones, and example clips."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import RATE, STEMS

from ussfast.data.pool import AudioPool, Item
from ussfast.train.chains import NEXT, absent_prompts
from ussfast.train.mix_config import MixConfig, PromptSet
from ussfast.train.mixing import Mixer
from ussfast.train.queries import QueryPicker
from ussfast.train.rendering import AugmentConfig, Change, Crop

SECONDS = {"bell": 1.2, "door": 1.2, "once": 0.5, "rain": 1.5, "jazz": 2.0, "song": 4.0, "reader": 1.5, "shy": 2.0}


def make_pool():
    """Every item is a tone of its own, 20 Hz from the next; some labels have one item only."""
    template = Item("x", "speech", "g", "train", "permissive", RATE)
    items, lengths = [], []
    rows = [("sfx", "bell", 3), ("sfx", "door", 2), ("sfx", "once", 1), ("sfxbg", "rain", 2), ("musicbg", "jazz", 1)]
    for prompt, label, count in rows:
        items += [replace(template, prompt=prompt, label=label, group=label) for _ in range(count)]
        lengths += [SECONDS[label]] * count
    for speaker, count in (("reader", 3), ("shy", 1)):
        items += [replace(template, speaker=speaker, group=speaker, label="voice") for _ in range(count)]
        lengths += [SECONDS[speaker]] * count
    for song in ("one", "two"):
        items += [replace(template, prompt=stem, song=song, group=song, label="rock") for stem in STEMS]
        lengths += [SECONDS["song"]] * len(STEMS)
    tones = 300 + 100 * np.arange(len(items))
    arrays = [
        0.3 * np.sin(2 * np.pi * f * np.arange(round(n * RATE)) / RATE) for f, n in zip(tones, lengths, strict=True)
    ]
    return AudioPool(items, arrays, RATE)


POOL = make_pool()


def item_of(rows):
    """The number of the item whose tone each row has."""
    spectrum = np.abs(np.fft.rfft(rows * np.hanning(rows.shape[-1])))
    return np.rint((spectrum.argmax(-1) * RATE / rows.shape[-1] - 300) / 100).astype(int)


def mixer(seed=0, **changes):
    return Mixer(POOL, MixConfig(**({"seconds": 0.5, "rows": 12} | changes)), np.random.default_rng(seed))


def test_prompts_that_nothing_answers_to():
    assert absent_prompts(["speech"]) == ["sfx", "sfxbg", "musicbg", *STEMS]
    assert absent_prompts(["sfx", "speech"]) == ["musicbg", *STEMS]
    assert absent_prompts(["sfxbg", "drums"]) == ["speech", "bass", "vocals", "other"]
    assert absent_prompts(["musicbg"]) == ["speech", "sfx", "sfxbg"]
    assert absent_prompts(["speech", "sfxbg", "musicbg"]) == []


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), dropout=st.sampled_from([0.0, 0.5]), silence=st.sampled_from([0.0, 0.5]))
def test_absent_references_are_zero_and_nothing_answers(seed, dropout, silence):
    batch = mixer(seed, absent=1.0, dropout=dropout, silence=silence, built_background=0.0).batch()
    count, sources, _ = batch.references.shape
    assert batch.absent.dtype == torch.bool and batch.absent.shape == (count, sources)
    assert count == 12 // sources and {len(names) for names in batch.prompts} == {sources}
    power = batch.references.square().sum(-1)
    assert power[batch.absent].eq(0).all() and power[~batch.absent].gt(0).all()
    for names, absent, mixture in zip(batch.prompts, batch.absent, batch.mixture.numpy(), strict=True):
        assert 1 <= absent.sum() <= 1 + (silence > 0)
        # What is heard, dropped sources too, does not answer to some prompt that is asked for.
        spectrum = np.abs(np.fft.rfft(mixture * np.hanning(len(mixture))))
        heard = {x.prompt for i, x in enumerate(POOL.items) if spectrum[(300 + 100 * i) // 2] > 0.02 * spectrum.max()}
        for name, gone in zip(names, absent.tolist(), strict=True):
            assert gone or name in heard
        assert any(name in absent_prompts(heard) for name, gone in zip(names, absent.tolist(), strict=True) if gone)


def test_absent_prompts_are_drawn_evenly_at_any_place():
    drawn = mixer(absent=1.0, rows=300, sets=(PromptSet(("speech", "sfx"), 1.0),))
    asked, places = [], []
    for _ in range(6):
        batch = drawn.batch()
        assert batch.references.shape[:2] == (100, 3) and batch.absent.sum(1).eq(1).all()
        place = batch.absent.int().argmax(1).tolist()
        asked += [names[i] for names, i in zip(batch.prompts, place, strict=True)]
        places += place
    wanted = absent_prompts(["speech", "sfx"])
    for values, found in ((wanted, asked), ([0, 1, 2], places)):
        assert set(found) == set(values)
        p = 1 / len(values)
        assert all(abs(found.count(v) / 600 - p) < 5 * np.sqrt(p * (1 - p) / 600) for v in values)


def test_sets_that_answer_to_everything_have_no_absent_prompts():
    names = ("speech", "sfxbg", "musicbg")
    batch = mixer(absent=1.0, sets=(PromptSet(names, 1.0),)).batch()
    assert set(batch.prompts) == {names} and not batch.absent.any() and len(batch.prompts) == 4


@pytest.mark.parametrize(("names", "dropout", "kept"), [(("speech", "sfx", "drums"), 0.0, 3), (STEMS, 1.0, 3)])
def test_silent_sources_are_missing_in_the_mixture(names, dropout, kept):
    sets = (PromptSet(names, 1.0),)
    drawn = mixer(rows=120, sets=sets, silence=0.5, dropout=dropout, built_background=0.0)
    silent = []
    for _ in range(5):
        batch = drawn.batch()
        assert batch.references.shape[:2] == (40, kept) and all(set(row) <= set(names) for row in batch.prompts)
        assert batch.references[batch.absent].eq(0).all() and batch.absent.sum(1).max() == 1
        left = batch.mixture - batch.references.sum(1)
        assert (left.abs().amax(-1) > 1e-3).all() if dropout else left.abs().max() < 1e-6
        silent += batch.absent.any(1).tolist()
    assert abs(np.mean(silent) - 0.5) < 5 * np.sqrt(0.25 / 200)


def test_the_last_source_stays():
    batch = mixer(silence=1.0, dropout=1.0, sets=(PromptSet(("speech", "sfx"), 1.0),)).batch()
    assert batch.references.shape[1] == 1 and not batch.absent.any()


def alike(one, other):
    a, b = POOL.items[one], POOL.items[other]
    if a.prompt in STEMS:
        return a.prompt == b.prompt
    return a.prompt == b.prompt and (a.speaker == b.speaker if a.prompt == "speech" else a.label == b.label)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), speed=st.sampled_from([0.0, 1.0]))
def test_clips_are_of_the_same_kind_and_never_overlap(seed, speed):
    drawn, calls = mixer(seed, query=1.0, query_seconds=0.5, absent=0.5, augment=AugmentConfig(speed=speed)), []

    def watched(what):
        def call(*args):
            calls.append((*args[:2], what(*args)))
            return calls[-1][-1]

        return call

    drawn.picker.present, drawn.picker.absent = watched(drawn.picker.present), watched(drawn.picker.absent)
    batch = drawn.batch()
    for source, mixture, clip in calls:
        if clip is None:
            continue
        item = POOL.items[clip.item]
        for c in mixture:
            assert c.item != clip.item or clip.offset >= c.offset + c.span or clip.offset + clip.span <= c.offset
        if isinstance(source, str):
            assert item.prompt == source and item.group not in {POOL.items[c.item].group for c in mixture}
        else:
            assert alike(source.item, clip.item)
            assert not any(alike(c.item, clip.item) for c in mixture if c.row != source.row)
    clips = [clip for *_, clip in calls if clip is not None]
    assert len(clips) == (0 if batch.queries is None else len(batch.queries)) and calls
    if clips:
        assert item_of(batch.queries.numpy()).tolist() == [clip.item for clip in clips]


def test_clips_stand_for_the_sources_they_say():
    found = 0
    for seed in range(12):
        batch = mixer(seed, query=0.5, query_seconds=0.4, built_background=0.0, dropout=0.3, rows=24).batch()
        assert batch.queries.shape == (len(batch.asked), 3200) and batch.queries.dtype == torch.float32
        torch.testing.assert_close(batch.queries.square().mean(-1), torch.ones(len(batch.asked)))
        pairs = {tuple(pair) for pair in batch.asked.tolist()}
        assert batch.asked.dtype == torch.int64 and len(pairs) == len(batch.asked)
        heard = item_of(batch.references.flatten(0, 1).numpy()).reshape(batch.references.shape[:2])
        for clip, (item, source) in zip(item_of(batch.queries.numpy()), batch.asked.tolist(), strict=True):
            assert alike(heard[item, source], clip) and POOL.items[clip].prompt == batch.prompts[item][source]
            found += 1
    assert found > 50


def test_every_way_to_a_clip():
    picker, rng = QueryPicker(POOL, 0.5), np.random.default_rng(0)
    numbers = {}
    for i, item in enumerate(POOL.items):
        numbers.setdefault(item.song and (item.song, item.prompt) or item.speaker or item.label, []).append(i)

    def clips(item, offset=0, span=4000, others=()):
        crop = Crop(item, offset, span, 1.0, 0, Change())
        return [picker.present(crop, [crop, *others], rng) for _ in range(40)]

    bell, other_bell, third = numbers["bell"]
    assert {c.item for c in clips(bell)} == {other_bell, third}
    assert {c.item for c in clips(numbers["reader"][0])} == set(numbers["reader"][1:])
    # A label, a speaker with one item: another place of it, or none where there is no room.
    for name in ("jazz", "shy"):
        found = clips(numbers[name][0], 6000)
        assert {c.item for c in found} == {numbers[name][0]}
        assert min(c.offset for c in found) < 2000 and max(c.offset for c in found) >= 10000
    assert set(clips(numbers["once"][0])) == {None}
    assert set(clips(numbers["jazz"][0], 2000, 12000)) == {None}
    # Stems: the same song first, another one where that is used up.
    drums = numbers["one", "drums"][0]
    assert {c.item for c in clips(drums)} == {drums}
    assert {c.item for c in clips(drums, 0, 32000)} == {numbers["two", "drums"][0]}
    # A second bell in the mixture: no clip could tell the two apart.
    assert set(clips(bell, others=[Crop(third, 0, 4000, 1.0, 1, Change())])) == {None}
    assert {picker.absent("sfx", [Crop(bell, 0, 4000, 1.0, 0, Change())], rng).item for _ in range(40)} == {
        *numbers["door"], *numbers["once"],
    }  # fmt: skip
    assert picker.absent("musicbg", [Crop(numbers["jazz"][0], 0, 1, 1.0, 0, Change())], rng) is None


def test_clips_move_in_pitch_and_duration_with_their_source():
    change = Change(1.3, 0.8, gains_db=(1.0,) * 6, room=(0.2, -6.0), edge=0.5)
    always, never, rng = QueryPicker(POOL, 0.5, 1.0), QueryPicker(POOL, 0.5), np.random.default_rng(0)
    bell = next(i for i, item in enumerate(POOL.items) if item.label == "bell")
    jazz = next(i for i, item in enumerate(POOL.items) if item.label == "jazz")
    for item, offset in ((bell, 0), (jazz, 7500)):  # of another item, of another place of the same one
        crop = Crop(item, offset, 5000, 1.0, 0, change)
        clip = always.present(crop, [crop], rng)
        assert clip.change == Change(1.3, 0.8) and clip.span == clip.change.span(4000, POOL.rate) > 4000
        assert clip.item != item or clip.offset + clip.span <= offset or clip.offset >= offset + 5000
        assert never.present(crop, [crop], rng).change == Change()
        sound = always.render([clip], AugmentConfig(), 0.0, rng)
        assert sound.shape == (1, 4000) and float(sound.square().mean()) == pytest.approx(1, rel=1e-3)
    some = QueryPicker(POOL, 0.5, 0.5)
    moved = [some.present(crop, [crop], rng).change.moves for _ in range(200)]
    assert 60 < sum(moved) < 140


def test_backgrounds_that_are_built_are_never_queried():
    sets = (PromptSet(("sfxbg", "musicbg"), 1.0),)
    assert mixer(query=1.0, sets=sets, built_background=1.0).batch().queries is None
    taken = mixer(query=1.0, sets=sets, built_background=0.0).batch()
    assert {tuple(pair) for pair in taken.asked.tolist()} >= {(i, 0) for i in range(6)}


def test_clips_are_coloured_for_themselves():
    sets = (PromptSet(("speech", "sfx"), 1.0),)
    settings = {"query": 1.0, "query_seconds": 0.5, "sets": sets, "any_band": 1.0}
    pool = AudioPool(POOL.items, [np.random.default_rng(0).standard_normal(16000) * 0.1 for _ in POOL.items], RATE)
    config = MixConfig(seconds=0.5, augment=AugmentConfig(equaliser=1.0, equaliser_db=12.0), **settings)
    batch = Mixer(pool, config, np.random.default_rng(0)).batch()
    power = torch.fft.rfft(batch.queries).abs().square()
    assert power[:, -5:].max() < 1e-3 * power.max()  # every clip has an edge
    bands = power[:, :1500].unflatten(1, (15, 100)).mean(-1).log10() * 10
    assert bands.std(0).min() > 1  # and a colour of its own
    torch.testing.assert_close(batch.queries.square().mean(-1), torch.ones(len(batch.queries)))


def test_all_prompts_can_be_absent():
    asked = set()
    for seed in range(30):
        batch = mixer(seed, absent=1.0).batch()
        asked |= {
            name
            for names, absent in zip(batch.prompts, batch.absent.tolist(), strict=True)
            for name, gone in zip(names, absent, strict=True)
            if gone
        }
    assert asked == set(NEXT)
