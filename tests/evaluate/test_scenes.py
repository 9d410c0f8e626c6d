"""Scenes with known events."""

import json

import numpy as np
import pytest
import soundfile

from ussfast import AudioError
from ussfast.data.pool import read_manifest
from ussfast.evaluate.scenes import BACKGROUND_DB, LEVELS_DB, LONGEST, MOST_SOUNDS, SECONDS, active, scenes

RATE = 8000
TONE = {"low": 500, "middle": 1000, "high": 2000, "long": 3000, "twice": 1500}


def tone(hertz, seconds):
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def silence(seconds):
    return np.zeros(round(seconds * RATE))


CLIPS = {
    "low": (silence(0.3), tone(500, 1.0), silence(0.7)),
    "middle": (tone(1000, 0.5), silence(0.3), tone(1000, 0.5)),
    "high": (tone(2000, 0.2),),
    "long": (tone(3000, 7.0),),
    "twice": (tone(1500, 0.4), silence(1.0), tone(1500, 0.6)),
}


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """(sounds and their labels, backgrounds)"""
    folder, rows = tmp_path_factory.mktemp("data"), []
    noise = np.random.default_rng(0).standard_normal(6 * RATE) * 0.05
    for name, clip in {**CLIPS, "wind": (noise,)}.items():
        soundfile.write(folder / f"{name}.wav", np.concatenate(clip), RATE, subtype="FLOAT")
        prompt = "sfxbg" if name == "wind" else "sfx"
        row = {"path": f"{name}.wav", "prompt": prompt, "label": name, "split": "dev", "license_class": "permissive"}
        rows.append(row | {"sample_rate": RATE})
    (folder / "manifest.json").write_text(json.dumps({"items": rows}))
    all_of_it = read_manifest(folder / "manifest.json")
    return [(item, item.label) for item in all_of_it[:-1]], all_of_it[-1:]


@pytest.fixture(scope="module")
def made(items):
    return list(scenes(*items, RATE, 40))


def level_db(audio, hertz, rate=RATE):
    """Of a tone, in blocks of 10 ms."""
    blocks = audio[: len(audio) // (rate // 100) * (rate // 100)].reshape(-1, rate // 100).astype(np.float64)
    wave = np.exp(-2j * np.pi * hertz * np.arange(rate // 100) / rate)
    return 10 * np.log10(2 * np.abs(blocks @ wave / (rate // 100)) ** 2 + 1e-12)


def test_sounds_are_where_the_events_say(items):
    for scene in scenes(items[0], (), RATE, 40):
        assert scene.audio.shape == (round(SECONDS * RATE),) and scene.audio.dtype == np.float32
        labels = [event.label for event in scene.events]
        assert 1 <= len(set(labels)) <= MOST_SOUNDS
        for label, hertz in TONE.items():
            wanted = np.zeros(round(100 * SECONDS), bool)
            for event in scene.events:
                if event.label == label:
                    wanted[round(100 * event.onset) : round(100 * event.offset)] = True
            if label == "middle":  # its pause is too short to part it
                continue
            there = level_db(scene.audio, hertz) > LEVELS_DB[0] - 20
            assert (there != wanted).sum() <= 2, (label, scene.events)


def test_pauses_part_a_sound_and_short_ones_do_not(made):
    for scene in made:
        own = {label: [e for e in scene.events if e.label == label] for label in TONE}
        assert len(own["twice"]) in (0, 2) and all(len(own[name]) <= 1 for name in TONE if name != "twice")
        for name, seconds in (("low", 1.0), ("middle", 1.3), ("high", 0.2), ("long", LONGEST)):
            for event in own[name]:
                assert event.offset - event.onset == pytest.approx(seconds, abs=0.011)
        assert scene.events == sorted(scene.events, key=lambda e: (e.onset, e.offset))
    assert {label for scene in made for label in (e.label for e in scene.events)} == set(TONE)


def test_levels(made):
    for scene in made[:5]:
        quiet = np.ones(len(scene.audio), bool)
        for event in scene.events:
            quiet[round(event.onset * RATE) : round(event.offset * RATE)] = False
        assert 10 * np.log10(np.mean(scene.audio[quiet] ** 2.0)) == pytest.approx(BACKGROUND_DB, abs=1)
        assert np.abs(scene.audio).max() <= 0.95


def test_always_the_same(items, made):
    again = list(scenes(*items, RATE, 3))
    assert all(np.array_equal(a.audio, b.audio) and a.events == b.events for a, b in zip(again, made, strict=False))
    for scene, before in zip(scenes(*items, 2 * RATE, 3), again, strict=True):
        assert [event.label for event in scene.events] == [event.label for event in before.events]
        for a, b in zip(scene.events, before.events, strict=True):
            assert (a.onset, a.offset) == pytest.approx((b.onset, b.offset), abs=0.021)
    other = next(scenes(*items, RATE, 1, seed=1))
    assert other.events != again[0].events


def test_silent_recordings(items, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    row = {"path": "silent.wav", "prompt": "sfx", "label": "low", "split": "dev", "license_class": "permissive"}
    (tmp_path / "manifest.json").write_text(json.dumps({"items": [row | {"sample_rate": RATE}]}))
    (silent,) = read_manifest(tmp_path / "manifest.json")
    with pytest.raises(AudioError, match="the dev split is silent"):
        next(scenes([(silent, "low")], (), RATE, 1))
    both = [(silent, "low"), items[0][0]]
    events = [scene.events for scene in scenes(both, [silent], RATE, 8)]
    assert any(events) and not all(events)
    assert active(np.zeros(100, np.float32), RATE) == active(np.zeros(0, np.float32), RATE) == []
