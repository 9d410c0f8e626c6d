"""What is made of the vectors of several clips, and what is said of clips that disagree."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from ussfast.prompts.averages import agreement, average
from ussfast.prompts.origin import LEAST_COSINE, LEAST_OF_DETECTORS


def around(direction, count, spread, seed=0):
    """Vectors that point nearly where one of the axes does, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    vectors = spread * torch.randn(count, 16, generator=generator)
    vectors[:, direction] += 1
    return vectors * torch.linspace(1, 3, count)[:, None]


def test_the_mean_is_the_mean():
    vectors = around(0, 5, 0.1)
    torch.testing.assert_close(average(vectors, "mean"), vectors.mean(0))


@pytest.mark.parametrize("count", [1, 2])
def test_of_one_or_two_clips_robust_is_the_mean(count):
    vectors = torch.cat((around(0, 1, 0.1), around(1, 1, 0.1)))[:count]
    torch.testing.assert_close(average(vectors, "robust"), vectors.mean(0))


@pytest.mark.parametrize("count", [2, 4, 9])
@pytest.mark.parametrize("spread", [1e-4, 0.05])
def test_clips_of_another_sound_do_not_count(count, spread):
    good = around(0, count, spread)
    for place in range(count + 1):
        vectors = torch.cat((good[:place], around(3, 1, spread, seed=1), good[place:]))
        found = average(vectors, "robust")
        # Some of the good ones may be left out too, so it is near their mean.
        assert torch.cosine_similarity(found, good.mean(0), dim=0) > 0.98
        assert abs(found[3]) < 5 * spread * found[0] and vectors.mean(0)[3] > 0.05


def test_clips_that_agree_all_count_and_at_least_half_of_any_stay():
    same = torch.ones(5, 8)
    torch.testing.assert_close(average(same * torch.arange(1.0, 6)[:, None], "robust"), 3 * torch.ones(8))
    even = torch.eye(6)  # all equally far from each other: nobody is odd
    torch.testing.assert_close(average(even, "robust"), even.mean(0))
    for seed in range(20):
        vectors = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
        kept = normalize(vectors) @ normalize(average(vectors, "robust"), dim=0)
        assert (kept > 0).sum() >= 4


def test_agreement_names_the_clip_that_is_least_like_the_others():
    vectors = torch.tensor([[1.0, 0], [0, 2], [3, 0], [1, 0]])
    found = agreement(vectors, ["a.wav", "b.wav", "c.wav", "clip 4"])
    assert (found.clip, found.lowest) == ("b.wav", 0.0)
    assert math.isclose(found.cosine, 0.5)  # 3 of 6 pairs
    assert found.advice is None and found.cosine > LEAST_COSINE
    odd = agreement(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, -1, 0.1]]), ["a.wav", "b.wav", "c.wav"])
    assert odd.clip == "b.wav" or odd.clip == "c.wav"
    assert odd.advice == (
        f"the clips have little in common: their mean cosine is {odd.cosine:.2f}, {LEAST_COSINE} is the least for one "
        f"kind of sound; {odd.clip} is least like the others ({odd.lowest:.2f}): drop that one first"
    )


def test_vectors_of_detectors_need_more_in_common():
    vectors = torch.tensor([[1.0, 0], [0, 2], [3, 0], [1, 0]])
    own, detectors = (agreement(vectors, list("abcd"), by_detector) for by_detector in (False, True))
    assert LEAST_COSINE < own.cosine == detectors.cosine < LEAST_OF_DETECTORS
    assert own.advice is None and f"0.50, {LEAST_OF_DETECTORS} is the least" in detectors.advice
    alike = agreement(torch.tensor([[1.0, 0.5], [0.5, 1], [1, 1]]), list("abc"), by_detector=True)
    assert alike.cosine > LEAST_OF_DETECTORS and alike.advice is None


def test_two_clips_do_not_disagree_and_zeros_are_no_trouble():
    assert agreement(torch.eye(2), ["a", "b"]) is None
    found = agreement(torch.zeros(3, 4), ["a", "b", "c"])
    assert found.cosine == 0 and found.advice
    assert average(torch.zeros(3, 4), "robust").isfinite().all()
