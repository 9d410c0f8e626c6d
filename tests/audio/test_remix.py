"""What stems get of their mixture: how far down anything may go, and the rest."""

import numpy as np
import pytest

from ussfast.audio.remix import Remix

RNG = np.random.default_rng(0)
STEMS = RNG.standard_normal((3, 2, 50)).astype(np.float32)
MIXTURE = RNG.standard_normal((2, 50)).astype(np.float32)


def close(a, b):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_nothing_is_done_unless_asked_for():
    assert Remix()(STEMS, MIXTURE) is STEMS and not Remix()


def test_a_floor_keeps_a_share_of_what_is_not_in_a_stem():
    out = Remix(floor=0.25)(STEMS, MIXTURE)
    close(out, STEMS + 0.25 * (MIXTURE - STEMS))
    # What a stem has nothing of is 12 dB down; what it has alone is untouched.
    close(Remix(floor=0.25)(np.zeros_like(STEMS), MIXTURE), np.broadcast_to(0.25 * MIXTURE, STEMS.shape))
    close(Remix(floor=0.25)(MIXTURE[None], MIXTURE)[0], MIXTURE)
    close(Remix(floor=1.0)(STEMS, MIXTURE), np.broadcast_to(MIXTURE, STEMS.shape))


def test_the_rest_is_shared_out_equally():
    out = Remix(True)(STEMS, MIXTURE)
    close(out - STEMS, np.broadcast_to((MIXTURE - STEMS.sum(0)) / 3, STEMS.shape))
    close(out.sum(0), MIXTURE)
    close(Remix(True)(STEMS[:1], MIXTURE)[0], MIXTURE)


@pytest.mark.parametrize("floor", [0.1, 1 / 3, 0.5, 1.0])
def test_both_keep_the_sum_and_the_floor(floor):
    complete = np.stack([STEMS[0], STEMS[1], MIXTURE - STEMS[0] - STEMS[1]])
    out = Remix(True, floor)(complete, MIXTURE)
    close(out.sum(0), MIXTURE)
    kept = min(floor, 1 / 3)
    close(out, (1 - 3 * kept) * complete + kept * MIXTURE)


@pytest.mark.parametrize("remix", [Remix(True), Remix(floor=0.25), Remix(True, 0.25)])
def test_sources_come_and_go(remix):
    presence = np.stack([np.linspace(0, 1, 50), np.ones(50), np.ones(50)]).astype(np.float32)
    stems = STEMS * [[[0]], [[1]], [[1]]]  # the first one is silent
    out = remix(stems, MIXTURE, presence)
    # Before it is there, it gets nothing; when it is, it is one of three.
    close(out[0, :, 0], 0)
    close(out[1:, :, 0], remix(stems[1:], MIXTURE)[..., 0])
    close(out[..., -1], remix(stems, MIXTURE)[..., -1])
    if remix.sum_to_mixture:
        close(out.sum(0), MIXTURE)


def test_arguments_are_not_changed():
    stems, mixture = STEMS.copy(), MIXTURE.copy()
    Remix(True, 0.25)(stems, mixture)
    np.testing.assert_array_equal(stems, STEMS)
    np.testing.assert_array_equal(mixture, MIXTURE)
