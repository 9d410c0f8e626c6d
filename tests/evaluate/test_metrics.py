"""Separation metrics by hand, and the development mixtures."""

import json

import numpy as np
import pytest
from tiny import RATE, STEMS, TONE, tiny_manifest, tone_of

from ussfast.data.pool import AudioPool, read_manifest
from ussfast.errors import InputError
from ussfast.evaluate.dev import TASKS, dev_mixtures
from ussfast.evaluate.metrics import best_order, improvements, si_sdr


def signals(sources, samples=800, seed=0):
    return np.random.default_rng(seed).standard_normal((sources, samples)).astype(np.float32)


def test_si_sdr_by_hand():
    # The projection of (3, 1) on (1, 0) is (3, 0), the rest (0, 1): 9 / 1.
    assert si_sdr(np.array([3.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(10 * np.log10(9))
    # (2, 1, 2) on (1, 1, 0): 3/2 (1, 1, 0), rest (1/2, -1/2, 2): (9/2) / (9/2).
    assert si_sdr(np.array([2.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])) == pytest.approx(0.0, abs=1e-9)
    # The mean is not removed.
    assert si_sdr(np.array([1.0, 1.0]), np.array([1.0, -1.0])) == -100


def test_si_sdr_invariances():
    reference, noise = signals(2)
    estimate = reference + 0.1 * noise
    value = si_sdr(estimate, reference)
    assert 19 < value < 21
    for scaled in (si_sdr(7 * estimate, reference), si_sdr(estimate, 0.01 * reference), si_sdr(-estimate, reference)):
        assert scaled == pytest.approx(value, abs=1e-4)
    assert si_sdr(estimate.reshape(2, 400), reference.reshape(2, 400)) == pytest.approx(value)
    assert si_sdr(reference, reference) == 100 and si_sdr(0 * reference, reference) == -100


def test_equal_prompts_are_matched_for_the_best_score():
    references = signals(4)
    estimates = references[[2, 1, 3, 0]] + 0.05 * signals(4, seed=1)
    assert best_order(estimates, references, ("sfx", "bass", "sfx", "sfx")) == [3, 1, 0, 2]
    assert best_order(estimates, references, ("sfx", "bass", "drums", "other")) == [0, 1, 2, 3]


def test_improvements():
    references = signals(3)
    references[2] = 0
    mixture = references.sum(0)
    estimates = references[[1, 0, 2]] + 0.1 * signals(3, seed=2)
    found = improvements(mixture, estimates, references, ("speech", "speech", "sfx"))
    assert found[2] is None
    for j, i in ((0, 1), (1, 0)):
        assert found[j] == pytest.approx(si_sdr(estimates[i], references[j]) - si_sdr(mixture, references[j]))
        assert 15 < found[j] < 25
    # Not equal: no exchange, so both are worse than the mixture.
    assert max(improvements(mixture, estimates, references, ("speech", "bass", "sfx"))[:2]) < 0
    faint = references.copy()
    faint[0] *= 0.0009 / np.sqrt(np.mean(faint[0] ** 2))  # below -60 dB
    assert improvements(mixture, estimates, faint, ("a", "b", "c"))[0] is None


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    items = read_manifest(tiny_manifest(tmp_path_factory.mktemp("data")))
    return AudioPool.load([item for item in items if item.split == "dev"], RATE)


def test_dev_mixtures(pool):
    mixtures = list(dev_mixtures(pool, 3, seconds=1.0))
    assert [m.task for m in mixtures] == [task for task in TASKS for _ in range(3)]
    for m in mixtures:
        assert m.mixture.shape == (8000,) and m.references.shape == (len(m.prompts), 8000)
        assert m.mixture.dtype == m.references.dtype == np.float32
        assert np.abs(m.mixture).max() <= 0.95 + 1e-6
        np.testing.assert_allclose(m.references.sum(0), m.mixture, atol=1e-6)
        heard = tone_of(m.references)
        assert all(h == p or (p == "musicbg" and h in STEMS) for h, p in zip(heard, m.prompts, strict=True))
        if m.task in ("speech_speech", "sfx_sfx"):
            assert len(set(m.prompts)) == 1
            one, other = (np.abs(np.fft.rfft(r * np.hanning(8000))).argmax() for r in m.references)
            assert abs(int(one) - int(other)) == 20  # two different speakers or labels
    assert mixtures[9].prompts == STEMS and mixtures[12].prompts == ("speech", "sfxbg", "musicbg")


def test_the_loudest_mixtures_are_turned_down(pool):
    arrays = [3 * pool.crops(np.array([i]), np.array([0]), 8000)[0].numpy() for i in range(len(pool.items))]
    loud = AudioPool(pool.items, arrays, RATE)
    peaks = [np.abs(m.mixture).max() for m in dev_mixtures(loud, 2, seconds=1.0) if m.task == "music"]
    assert peaks == pytest.approx([0.95, 0.95])


def test_dev_mixtures_never_change(pool):
    few, many, other = (list(dev_mixtures(pool, *a, seconds=1.0)) for a in ((2,), (4,), (2,)))
    again = list(dev_mixtures(pool, 2, seconds=1.0, seed=1))
    many = [m for k, m in enumerate(many) if k % 4 < 2]
    for a, b, c in zip(few, many, other, strict=True):
        assert (a.task, a.prompts) == (b.task, b.prompts) == (c.task, c.prompts)
        np.testing.assert_array_equal(a.references, b.references)
        np.testing.assert_array_equal(a.references, c.references)
    assert not any(np.array_equal(a.mixture, b.mixture) for a, b in zip(few, again, strict=True))
    assert not np.array_equal(few[0].mixture, few[1].mixture)


# Pool indices and levels (RMS) of the sources of the first mixture of each task, as they were first published.
FIRST = [
    ((1, 5), [0.051292, 0.019287]),
    ((1, 0), [0.062096, 0.050258]),
    ((3, 2), [0.052916, 0.046122]),
    ((7, 9, 11, 13), [0.128723, 0.134941, 0.128723, 0.132102]),
    ((1, 5, -1), [0.05531, 0.029067, 0.042023]),
]


def test_items_of_the_sources(pool):
    made = list(dev_mixtures(pool, 1, seconds=0.5))
    assert [m.items for m in made] == [items for items, _ in FIRST]
    for m, (_, levels) in zip(made, FIRST, strict=True):
        assert np.sqrt(np.mean(m.references.astype(np.float64) ** 2, 1)) == pytest.approx(levels, abs=2e-6)
    for m in dev_mixtures(pool, 4, seconds=1.0):
        for index, prompt, reference in zip(m.items, m.prompts, m.references, strict=True):
            assert (index == -1) == (prompt == "musicbg")
            if index != -1:
                item, frequency = pool.items[index], np.abs(np.fft.rfft(reference * np.hanning(8000))).argmax()
                assert item.prompt == prompt and frequency == TONE[prompt] + 20 * int(item.group[-1])


@pytest.mark.parametrize(
    "drop",
    [
        lambda row: row["prompt"] == "sfxbg",
        lambda row: row.get("speaker") == "speaker 1",
        lambda row: row.get("label") == "label 0" and row["prompt"] == "sfx",
        lambda row: row["prompt"] == "vocals",
    ],
)
def test_a_dev_split_that_is_not_enough(tmp_path, drop):
    path = tiny_manifest(tmp_path, seconds=0.2)
    rows = [row for row in json.loads(path.read_text())["items"] if not drop(row) and row["split"] == "dev"]
    path.write_text(json.dumps({"items": rows}))
    with pytest.raises(InputError, match="the dev split needs speech of two speakers"):
        list(dev_mixtures(AudioPool.load(read_manifest(path), RATE), 1))


def test_songs_without_all_stems_are_left_out(tmp_path):
    path = tiny_manifest(tmp_path, seconds=1.0)
    rows = [r for r in json.loads(path.read_text())["items"] if r["split"] == "dev" and r["path"] != "dev-bass-1.wav"]
    path.write_text(json.dumps({"items": rows}))
    mixtures = dev_mixtures(AudioPool.load(read_manifest(path), RATE), 6, seconds=0.5)
    assert sum(m.task == "music" for m in mixtures) == 6
