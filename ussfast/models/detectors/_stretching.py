"""Bicubic stretching along time as a product with a matrix, for graphs: TensorRT has no cubic Resize."""

import numpy as np
import torch
from torch import Tensor

SHARPNESS = -0.75  # of the cubic kernel, PyTorch's


def stretch_matrix(frames: int, most: int) -> Tensor:
    """[most, frames] float32: what F.interpolate(mode="bicubic", align_corners=True) does along one axis.

    Source: Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, with a = -0.75; beyond the ends
    the first and the last frame go on. In NumPy, so that a trace sees numbers and not how they came about.
    """
    # Places in float32, as PyTorch has them: a few 1e-4 of a frame away from the exact ones.
    at = np.arange(most, dtype=np.float32) * np.float32((frames - 1) / (most - 1))
    below = np.floor(at)
    share = (at - below).astype(np.float64)
    matrix = np.zeros((most, frames))
    for tap in range(-1, 3):
        places = np.clip(below.astype(np.int64) + tap, 0, frames - 1)
        np.add.at(matrix, (np.arange(most), places), _kernel(np.abs(share - tap)))
    return torch.from_numpy(matrix.astype(np.float32))


def _kernel(x: np.ndarray) -> np.ndarray:
    a = SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
