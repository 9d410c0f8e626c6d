"""The matrix that stretches along time is PyTorch's bicubic interpolation."""

import pytest
import torch
import torch.nn.functional as F

from ussfast.models.detectors._stretching import stretch_matrix


@pytest.mark.parametrize("frames, most", [(1, 8), (2, 5), (7, 8), (100, 1024), (1001, 1024), (8, 8), (9, 4)])
def test_a_product_is_what_interpolation_gives(frames, most):
    x = torch.randn(2, frames, 5)
    expected = F.interpolate(x[:, None], (most, 5), mode="bicubic", align_corners=True)[:, 0]
    torch.testing.assert_close(stretch_matrix(frames, most) @ x, expected, rtol=1e-5, atol=1e-5)
