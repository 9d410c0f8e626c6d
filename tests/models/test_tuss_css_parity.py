"""Long audio as the published scripts do it, against their recorded outputs."""

import pytest
import torch
from golden_io import arrays, assert_close, golden_model, settings

from ussfast import SegmentPolicy, Separator

CSS = settings("tuss_tiny_css")


def separated(backend: str, prompts: list[str], policy: SegmentPolicy) -> torch.Tensor:
    mixture = arrays("tuss_tiny_css", "inputs")["mix"]
    kept = mixture.clone()
    separator = Separator.from_model(golden_model("tuss_tiny_css"), prompts, backend=backend)
    separator.policy = policy
    stems = separator.separate(mixture, separator.sample_rate).stems
    assert torch.equal(mixture, kept) and stems.shape[-1] == mixture.shape[-1]
    return torch.from_numpy(stems[:, 0])


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize(
    "recorded, prompts, policy",
    [
        ("css_default", CSS["css_prompts"], SegmentPolicy(1.0, 0.5, "published")),
        ("css_solve_perm", CSS["css_prompts_solve_perm"], SegmentPolicy(1.0, 0.5, "published", True)),
        ("css_nooverlap_first_src", CSS["css_prompts"], SegmentPolicy(1.0, 0.0, "published")),
    ],
)
def test_published_stitching(recorded, prompts, policy, backend):
    expected = arrays("tuss_tiny_css", "outputs")[recorded]
    if expected.dim() == 1:
        expected = expected[None]
    stems = separated(backend, prompts, policy)
    assert_close(stems[: len(expected)], expected, 5e-4)
