"""Windows over recordings of any length, and means where they overlap."""

import numpy as np
import pytest

from ussfast.detect.windows import Mean, cut


def windows(samples, block, length=20, step=15, grid=5):
    audio = np.arange(2 * samples, dtype=np.float32).reshape(2, samples)
    blocks = (audio[:, at : at + block] for at in range(0, samples, block))
    found = list(cut(blocks, length, step, grid))
    for start, window in found:
        assert np.array_equal(window, audio[:, start : start + window.shape[1]])
    return [(start, window.shape[1]) for start, window in found]


@pytest.mark.parametrize("block", [1, 7, 20, 1000])
def test_where_windows_are(block):
    assert windows(1, block) == [(0, 1)]
    assert windows(20, block) == [(0, 20)]
    assert windows(21, block) == [(0, 20), (5, 16)]
    assert windows(25, block) == [(0, 20), (5, 20)]
    assert windows(35, block) == [(0, 20), (15, 20)]
    assert windows(36, block) == [(0, 20), (15, 20), (20, 16)]


def test_no_sample_is_lost():
    for samples in range(1, 120):
        found = windows(samples, 13)
        assert found[0][0] == 0 and sum(found[-1]) == samples
        assert all(a + length >= b for (a, length), (b, _) in zip(found, found[1:], strict=False))
        assert all(length > 15 for _, length in found[1:]), "a window shorter than that has too little context"
        assert len(set(found)) == len(found)


def test_nothing_of_nothing():
    assert list(cut([], 20, 15, 5)) == []
    assert list(cut([np.zeros((1, 0))], 20, 15, 5)) == []


def test_rows_that_overlap_are_averaged():
    mean = Mean(1)
    column = np.array([[1.0], [2.0], [3.0]], np.float32)
    assert mean.push(0, column).tolist() == []
    assert mean.push(2, 10 * column).tolist() == [[1], [2]]
    assert mean.push(3, 100 * column).tolist() == [[6.5]]
    assert mean.flush().tolist() == [[60], [115], [300]]


def test_a_row_that_is_there_once_keeps_its_bits():
    rows = np.random.default_rng(0).random((5, 3), np.float32)
    mean = Mean(3)
    mean.push(0, rows)
    assert np.array_equal(mean.flush(), rows)
