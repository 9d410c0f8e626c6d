"""Orders of sources; channels that were separated one by one agree about which source is which."""

import numpy as np
import pytest

from ussfast.long_audio.alignment import align_channels, solve


def signal(sources, samples):
    return np.random.default_rng(0).standard_normal((sources, samples)).astype(np.float32)


def test_channels_are_aligned_to_the_first():
    first = signal(4, 500)
    others = [first[[0, 2, 1, 3]], first[[0, 3, 1, 2]]]
    out = np.stack([first, 0.5 * others[0], 0.3 * others[1]], 1)
    aligned = align_channels(out.copy(), ((1, 2, 3),))
    np.testing.assert_array_equal(aligned, np.stack([first, np.float32(0.5) * first, np.float32(0.3) * first], 1))
    np.testing.assert_array_equal(align_channels(out.copy(), ()), out)


@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (1, -1)])
def test_channels_of_opposite_phase_are_aligned_too(signs):
    """All of a channel's sources turned over, as where it is the other's inverse, or one of them."""
    one = signal(2, 400)
    other = one * np.array(signs, np.float32)[:, None]
    aligned = align_channels(np.stack((one, other[::-1]), 1), ((0, 1),))
    np.testing.assert_array_equal(aligned, np.stack((one, other), 1))


@pytest.mark.parametrize("sources", [2, 8, 9, 16])
def test_sources_are_put_back_into_their_order(sources):
    """Of 16 there are more orders than any memory holds."""
    rng = np.random.default_rng(sources)
    tail = rng.standard_normal((sources, 2, 300)).astype(np.float32)
    new = np.concatenate([tail + 0.1 * rng.standard_normal(tail.shape).astype(np.float32), tail[..., :50]], -1)
    shuffled = np.stack([new[rng.permutation(sources), channel] for channel in range(2)], 1)
    np.testing.assert_array_equal(solve(tail, shuffled), new)
