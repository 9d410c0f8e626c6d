"""Segments and pairs of weakly labelled clips, against the published helpers (tests/golden/zeroshot_utils)."""

import pytest
import torch
from golden_io import arrays, assert_close

from ussfast.errors import InputError
from ussfast.train.anchors import anchor_starts, mix_pairs

NAME = "zeroshot_utils"


def test_segments_begin_where_published_ones_do():
    curves, want = arrays(NAME, "inputs")["sed_class_curves"], arrays(NAME, "outputs")["segment_start_samples"]
    assert anchor_starts(curves, 320_000, 64_000).tolist() == want.tolist()


def test_segments_lie_within_the_clip():
    curves = torch.zeros(3, 1024)
    curves[0, 0] = curves[1, -1] = 1  # the third has no maximum: the first row wins
    assert anchor_starts(curves, 320_000, 64_000).tolist() == [0, 256_000, 0]
    assert anchor_starts(curves, 64_001, 64_000).tolist() == [0, 0, 0]
    assert anchor_starts(curves, 64_000, 64_000).tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="segments of 64000 samples do not fit into clips of 63999"):
        anchor_starts(curves, 63_999, 64_000)


def test_pairs():
    mixtures, sources = mix_pairs(arrays(NAME, "inputs")["pair_waveforms"])
    want = arrays(NAME, "outputs")
    assert_close(mixtures, want["pair_mixtures"], 1e-6)
    assert_close(sources, want["pair_sources"], 1e-6)
    assert want["pair_conditions"].tolist() == [0, 1, 2, 3]


def test_gains_of_silent_and_of_loud_clips_are_bounded():
    loud, quiet, silent = torch.full((1, 100), 100.0), torch.full((1, 100), 1e-3), torch.zeros(1, 100)
    for pair, gain in (((loud, quiet), 50), ((quiet, loud), 0.02), ((loud, silent), 50), ((silent, loud), 0.02)):
        mixtures, sources = mix_pairs(torch.cat(pair))
        torch.testing.assert_close(sources[1], pair[1][0] * gain)
        torch.testing.assert_close(mixtures[0], pair[0][0] + pair[1][0] * gain)
    with pytest.raises(InputError, match="even number of clips, got 3"):
        mix_pairs(torch.zeros(3, 10))
