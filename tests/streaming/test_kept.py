"""Which stems are kept, and how that changes."""

import numpy as np
import pytest

from ussfast.separation import Separation
from ussfast.streaming.live.kept import Kept

FADE = 8


def piece(labels, count=20, seed=0):
    rng = np.random.default_rng(seed)
    stems = rng.standard_normal((len(labels), 2, count)).astype(np.float32)
    return Separation(labels, stems, 8000, rng.standard_normal((2, count)).astype(np.float32))


def test_one_stem_is_kept_bit_for_bit():
    one = piece(("a", "b"))
    assert Kept(["a"], FADE)(one, one.labels).tobytes() == one["a"].tobytes()


@pytest.mark.parametrize("keep", [["a", "c"], ["residual"], ["b", "residual"], ["a", "b", "c", "residual"]])
def test_several_are_added_up(keep):
    one = piece(("a", "b", "c"))
    expected = sum(one.residual if name == "residual" else one[name] for name in keep)
    np.testing.assert_allclose(Kept(keep, FADE)(one, one.labels), expected, atol=1e-5)


def test_a_stem_that_is_called_residual_is_meant_by_that():
    one = piece(("a", "residual"))
    assert Kept(["residual"], FADE)(one, one.labels).tobytes() == one["residual"].tobytes()


def test_a_floor_keeps_some_of_all():
    one = piece(("a", "b"))
    expected = one["a"] + 0.25 * (one.mixture - one["a"])
    np.testing.assert_allclose(Kept(["a"], FADE, 0.25)(one, one.labels), expected, atol=1e-6)


@pytest.mark.parametrize("sizes", [[20], [1] * 20, [3, 0, 5, 12]])
def test_a_change_is_a_straight_line_however_it_is_cut(sizes):
    whole = piece(("a", "b"))
    kept = Kept(["a"], FADE)
    kept(piece(("a", "b"), 5), ("a", "b"))
    kept.change(["b"])
    out, at = [], 0
    for size in sizes:
        part = Separation(whole.labels, whole.stems[..., at : at + size], 8000, whole.mixture[:, at : at + size])
        out.append(kept(part, part.labels))
        at += size
    way = np.minimum(np.arange(1, 21) / FADE, 1)
    np.testing.assert_allclose(np.concatenate(out, 1), whole["a"] * (1 - way) + whole["b"] * way, atol=1e-6)


def test_a_former_stem_stays_as_it_was_and_a_new_one_is_there_at_once():
    """The session fades them; doing it twice would leave a hole."""
    kept = Kept(["a"], FADE)
    kept(piece(("a", "b")), ("a", "b"))
    kept.change(["c"])
    one = piece(("c", "a", "b"))
    np.testing.assert_allclose(kept(one, ("c",)), one["c"] + one["a"], atol=1e-6)
    other = piece(("c",), seed=1)
    assert kept(other, ("c",)).tobytes() == other["c"].tobytes()


def test_nothing_kept_is_silence():
    one = piece(("a",))
    assert not Kept([], FADE)(one, one.labels).any()
