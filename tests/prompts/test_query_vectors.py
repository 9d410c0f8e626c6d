"""Query vectors of a detector: which segments count, and how they are averaged."""

import pytest
import torch
from golden_detectors import HTSAT, golden_detector
from golden_io import arrays, assert_close

from ussfast.errors import InputError
from ussfast.prompts.queries import TOGETHER, clip_vectors, query_segments, query_vector

LENGTH = 64_000


def means(segments):
    """Stands for a detector: simple to tell, and counts what it is given."""
    assert segments.shape[1] == LENGTH and len(segments) <= TOGETHER
    return segments[:, :2].clone()


@pytest.fixture(scope="module")
def model():
    return golden_detector(HTSAT)


def test_a_query_of_one_segment_is_the_published_embedding(model):
    clip, want = arrays(HTSAT, "inputs")["seg2s"][0], arrays(HTSAT, "outputs")["seg2s_latent"]
    assert_close(query_vector(model.embed, [clip], LENGTH), want, 2e-5)
    # A tail and silent segments change nothing.
    longer = torch.cat([clip, torch.zeros(LENGTH), clip[: LENGTH - 1]])
    assert_close(query_vector(model.embed, [longer], LENGTH), want, 2e-5)


def test_a_long_clip_is_the_mean_over_its_segments(model):
    clip = arrays(HTSAT, "inputs")["clip10s"][0]
    with torch.inference_mode():
        want = model.embed(clip.view(5, LENGTH)).mean(0)
    assert_close(query_vector(model.embed, [clip], LENGTH), want, 1e-5)


def test_mean_of_means():
    one, three = torch.full((LENGTH,), 1.0), torch.full((3 * LENGTH,), 2.0)
    torch.testing.assert_close(query_vector(means, [one, three], LENGTH), torch.full((2,), 1.5))
    torch.testing.assert_close(clip_vectors(means, [one, three], LENGTH)[:, 0], torch.tensor([1.0, 2.0]))
    many = torch.arange(20.0).repeat_interleave(LENGTH)  # the first one is silent
    torch.testing.assert_close(query_vector(means, [many], LENGTH), torch.full((2,), 10.0))


def test_the_threshold_is_a_sum_of_squares():
    quiet, loud = torch.zeros(LENGTH), torch.zeros(LENGTH)
    quiet[0], loud[0] = 0.316, 0.317  # squares: 0.0999 and 0.1005
    assert len(query_segments(torch.cat([quiet, loud, quiet, loud]), LENGTH)) == 2
    with pytest.raises(InputError, match=r"the query is silent: .* above 0.1, the loudest one has 0.1"):
        query_segments(torch.cat([quiet, quiet]), LENGTH)


def test_short_clips_are_repeated_unless_refused():
    short = torch.arange(1.0, LENGTH // 3)
    segments = query_segments(short, LENGTH)
    assert segments.shape == (1, LENGTH) and torch.equal(segments[0, len(short) : 2 * len(short)], short)
    with pytest.raises(InputError, match=f"the query has {len(short)} samples, a segment {LENGTH}"):
        query_segments(short, LENGTH, "refuse")


@pytest.mark.parametrize(
    ("clip", "says"),
    [
        (torch.zeros(LENGTH), "clip 2: the query is silent: .* the loudest one has 0$"),
        (torch.zeros(0), r"clip 2: a query is audio \[samples\], got \[0\]"),
        (torch.ones(2, LENGTH), r"clip 2: a query is audio \[samples\]"),
        (torch.full((LENGTH,), float("nan")), "clip 2: the query has samples that are no numbers"),
    ],
)
def test_clips_that_give_nothing_are_named(clip, says):
    with pytest.raises(InputError, match=says) as caught:
        query_vector(means, [torch.ones(LENGTH), clip], LENGTH)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="at least one clip"):
        query_vector(means, [], LENGTH)
