"""Full-band voices, quiet behind loud, and the halves of a dev split, on noise whose answers are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from ussfast.data.pool import AudioPool, Item, read_manifest
from ussfast.errors import InputError
from ussfast.evaluate import report
from ussfast.evaluate.conditions import (
    LOUD_DB,
    above,
    after_loud,
    fit,
    has_band,
    high_band,
    high_band_mixtures,
    loud_mixtures,
)
from ussfast.evaluate.dev import half_of
from ussfast.evaluate.run import Evaluation, evaluate_model

RATE, SECONDS = 32000, 1.0


def below(signal):
    return signal - above(signal, RATE)


@pytest.fixture(scope="module")
def pool():
    """Noise for every prompt; of the voices only the second, of the backgrounds only the first, goes above 8 kHz."""
    rng = np.random.default_rng(5)
    names = ("speech", "speech", "sfx", "sfx", "sfxbg", "sfxbg", "drums", "bass", "vocals", "other")
    items, arrays = [], []
    for number, prompt in enumerate(names):
        audio = 0.1 * rng.standard_normal(2 * RATE)
        arrays.append(below(audio) if number in (0, 5) else audio)
        song = "song" if number >= 6 else None
        items.append(Item(f"{number}.wav", prompt, song or str(number), "dev", "permissive", RATE, song))
    return AudioPool(items, arrays, RATE)


class Known:
    """Knows the sources of every mixture and keeps of each a given factor in the band, all of what lies below."""

    sample_rate = RATE

    def __init__(self, mixtures, voice, background, rest=0.0):
        self.known = {m.mixture.tobytes(): m.references for m in mixtures}
        alone = {m.references[0].tobytes(): m.references * [[1], [0]] for m in mixtures}
        self.known, self.gains, self.rest = self.known | alone, (voice, background), rest

    def separate(self, audio, sample_rate, *, prompts):
        references = self.known[np.asarray(audio).tobytes()]
        band = sum(g * above(r, RATE) for g, r in zip(self.gains, references, strict=True))
        speech = below(references[0]) + band + self.rest * np.random.default_rng(1).standard_normal(audio.size)
        return SimpleNamespace(stems=np.stack([speech, audio - speech])[:, None])


def test_high_band_says_what_is_kept_of_voice_and_background(pool):
    mixtures = list(high_band_mixtures(pool, 3, SECONDS, 0))
    assert [m.items for m in mixtures] == [(1, 4)] * 3  # the only ones with something there
    assert len({m.mixture.tobytes() for m in mixtures}) == 3
    rows = list(high_band(Known(mixtures, 0.5, 0.1), iter(mixtures)))
    assert [row.mixture for row in rows] == [0, 1, 2]
    for row in rows:
        assert (row.alone_db, row.voice_db) == pytest.approx((-6.02, -6.02), abs=0.02)
        # All but the voice is the background alone here.
        assert (row.background_db, row.other_db) == pytest.approx((-20, -20), abs=0.05)


def test_high_band_counts_what_fits_neither(pool):
    mixtures = list(high_band_mixtures(pool, 1, SECONDS, 0))
    clean = next(high_band(Known(mixtures, 1, 0), iter(mixtures)))
    dirty = next(high_band(Known(mixtures, 1, 0, rest=0.02), iter(mixtures)))
    assert clean.voice_db == pytest.approx(0, abs=1e-3) and clean.background_db < -60 and clean.other_db < -60
    assert dirty.voice_db == pytest.approx(0, abs=0.1) and dirty.background_db < -30
    # Half of the noise is above 8 kHz.
    background = np.mean(above(mixtures[0].references[1], RATE) ** 2)
    assert dirty.other_db == pytest.approx(10 * np.log10(0.02**2 / 2 / background), abs=0.2)


def test_a_stem_without_the_band(pool):
    mixtures = list(high_band_mixtures(pool, 1, SECONDS, 0))
    row = next(high_band(Known(mixtures, 0, 0), iter(mixtures)))
    assert max(row.alone_db, row.voice_db, row.background_db) < -60


def test_no_voice_with_the_band(pool):
    low = AudioPool(pool.items, [0.1 * np.sin(np.arange(RATE) / 9)] * len(pool.items), RATE)
    assert list(high_band_mixtures(low, 3, SECONDS, 0)) == []


def test_band_limits():
    noise = np.random.default_rng(0).standard_normal(RATE)
    assert np.abs(np.fft.rfft(above(noise, RATE)))[:8000].max() < 1e-9
    assert has_band(noise, RATE) and not has_band(below(noise), RATE) and not has_band(0 * noise, RATE)
    assert not above(noise[:8000], 8000).any()
    gains, rest = fit(3 * noise[:99] - noise[100:199], np.stack([noise[:99], noise[100:199]]))
    assert gains == pytest.approx([3, -1]) and np.abs(rest).max() < 1e-9


def test_quiet_mixtures_follow_loud_ones(pool):
    pairs = list(loud_mixtures(pool, 2, SECONDS, 0))
    first = list(loud_mixtures(pool, 1, SECONDS, 0))
    assert len(pairs) == 2 and len(first) == 1 and np.array_equal(first[0][0], pairs[0][0])
    for loud, item in pairs:
        level = 10 * np.log10(np.mean(np.square(loud)) / np.mean(np.square(item.mixture)))
        assert level == pytest.approx(LOUD_DB, abs=1e-3) and np.abs(loud).max() == pytest.approx(0.95)


class Deaf:
    """Separates well, but 10 dB worse for what follows a loud passage (as long as the mixtures are here)."""

    sample_rate = RATE

    def __init__(self, pairs):
        self.pairs = pairs

    def separate(self, audio, sample_rate, *, prompts):
        item = next(item for _, item in self.pairs if np.array_equal(audio[-item.mixture.size :], item.mixture))
        behind = len(audio) > item.mixture.size
        share = 10 ** (-10 / 20) if behind else 0.1
        stems = (1 - share) * item.references + share * item.mixture
        return SimpleNamespace(stems=np.pad(stems, ((0, 0), (len(audio) - item.mixture.size, 0)))[:, None])


def test_loss_behind_a_loud_passage(pool):
    pairs = list(loud_mixtures(pool, 2, SECONDS, 0))
    rows = list(after_loud(Deaf(pairs), iter(pairs)))
    assert [(row.mixture, row.prompt) for row in rows] == [(n, p) for n in (0, 1) for p in ("speech", "sfxbg")]
    for row in rows:
        assert row.quiet_db - row.after_loud_db == pytest.approx(10, abs=0.2)
        assert row.quiet_db == pytest.approx(20, abs=0.2)
    found = Evaluation("tiny", "none", 2, RATE, ("model",), after_loud=rows)
    means = report.conditions(found)
    assert list(means) == ["after_loud"] and means["after_loud"]["sources"] == 4
    assert means["after_loud"]["loss_db"]["mean"] == pytest.approx(10, abs=0.2)
    assert f"| quiet | 4 | {means['after_loud']['quiet_db']['mean']:.2f} / " in report.table(found)


def test_the_report_has_the_band(pool):
    mixtures = list(high_band_mixtures(pool, 2, SECONDS, 0))
    rows = list(high_band(Known(mixtures, 0.5, 0.1), iter(mixtures)))
    found = Evaluation("tiny", "none", 2, RATE, ("model",), high_band=rows)
    content = json.loads(json.dumps(report.as_dict(found)))
    assert len(content["high_band"]) == content["conditions"]["high_band"]["mixtures"] == 2
    assert content["conditions"]["high_band"]["voice_db"]["mean"] == pytest.approx(-6.02, abs=0.02)
    assert "| above 8 kHz | 2 | -6.02 / -6.02 | -6.02 / -6.02 | -20" in report.table(found)


def test_a_command_measures_quiet_after_loud(command, arguments, tmp_path):
    assert command(*arguments, "-o", tmp_path) == 0
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["split"] == "all" and content["high_band"] == []  # 8 kHz audio has no such band
    assert len(content["after_loud"]) == content["conditions"]["after_loud"]["sources"] == 4
    assert "| quiet | 4 |" in (tmp_path / "evaluation.md").read_text()


def item(path, song=None):
    return Item(path, "drums" if song else "sfx", path, "dev", "permissive", RATE, song)


def test_halves_are_fixed_and_alike():
    names = [f"folder/sound {number}.wav" for number in range(1000)]
    halves = [half_of(item(name)) for name in names]
    assert abs(halves.count("dev") - 500) < 60 and set(halves) == {"dev", "test"}
    assert halves[:8] == [half_of(item(f"elsewhere/sound {number}.ogg")) for number in range(8)]
    # Recorded: figures of one half can be compared only while it stays the same half.
    assert "".join(half[0] for half in halves[:16]) == "ddtdttdtdttdttdt"
    assert len({half_of(item(f"{stem}.wav", "song 7")) for stem in ("drums", "bass", "vocals", "other")}) == 1


def test_each_half_is_measured_by_itself(manifest, directory, tmp_path, monkeypatch):
    rows = json.loads(manifest.read_text())["items"]
    more = [
        row | {"path": str(manifest.parent / row["path"])} | ({"song": f"song {n}"} if row.get("song") else {})
        for row in rows for n in range(4) if row.get("song") or n == 0
    ]  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps({"items": more}))
    seen = {}
    monkeypatch.setattr("ussfast.evaluate.run.half_of", lambda item: "test" if item.path.endswith("0.wav") else "dev")
    load = AudioPool.load

    def loading(items, *arguments):
        seen["paths"] = [item.path for item in items]
        return load(items, *arguments)

    monkeypatch.setattr(AudioPool, "load", loading)
    for split, ends in (("dev", "1.wav"), ("test", "0.wav")):
        with pytest.raises(InputError, match="speech of two speakers"):  # a half of two groups has only one
            evaluate_model(str(directory), tmp_path / "manifest.json", "cpu", 1, split=split)
        assert seen["paths"] and all(path.endswith(ends) for path in seen["paths"])
    whole = {item.path for item in read_manifest(tmp_path / "manifest.json") if item.split == "dev"}
    evaluate_model(str(directory), tmp_path / "manifest.json", "cpu", 1)
    assert set(seen["paths"]) == whole
    with pytest.raises(InputError, match="unknown split 'train'; there are: all, dev, test"):
        evaluate_model(str(directory), manifest, "cpu", 1, split="train")
