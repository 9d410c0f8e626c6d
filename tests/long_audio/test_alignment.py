"""Orders of sources."""

import numpy as np
import pytest

from ussfast.long_audio.alignment import solve


@pytest.mark.parametrize("sources", [2, 8, 9, 16])
def test_sources_are_put_back_into_their_order(sources):
    """Of 16 there are more orders than any memory holds."""
    rng = np.random.default_rng(sources)
    tail = rng.standard_normal((sources, 2, 300)).astype(np.float32)
    new = np.concatenate([tail + 0.1 * rng.standard_normal(tail.shape).astype(np.float32), tail[..., :50]], -1)
    shuffled = np.stack([new[rng.permutation(sources), channel] for channel in range(2)], 1)
    np.testing.assert_array_equal(solve(tail, shuffled), new)
