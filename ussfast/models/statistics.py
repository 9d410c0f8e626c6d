"""What a clip sounds like as numbers that need no training: statistics of its spectrum over time.

Of the same few hundred labelled effects a learned encoder tells fewer apart than these (bench/NOTES.md). Sources: Davis
and Mermelstein, "Comparison of parametric representations for monosyllabic word recognition", IEEE TASSP 28(4), 1980
(cepstra); McDermott and Simoncelli, "Sound texture perception via statistics of the auditory periphery", Neuron 71(5),
2011 (moments and modulation of bands).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CEPSTRA = 20
SHAPES = 8  # cepstra whose skewness counts
GROUPS = 6  # of bands, whose modulation counts, besides that of all
MODULATION = 128  # frames of a modulation spectrum
EDGES = (1, 2, 3, 4, 6, 9, 13, 19, 26, 33)  # of its bands, in bins
SILENT = 1e-5  # of the loudest frame's power: quieter frames do not count


def count() -> int:
    """How many numbers there are."""
    return 3 * CEPSTRA + SHAPES + (1 + GROUPS) * (len(EDGES) - 1) + 2 * CEPSTRA + 3 + 4


def describe(power: Tensor, bands: Tensor) -> Tensor:
    """Statistics that do not depend on the level.

    Args:
        power: [clips, frames, bins], squared magnitudes. bands: [clips, frames, bands], their means over bands.
    Returns:
        [clips, count()], of order 1.
    """
    energy = power.sum(-1)
    heard = (energy > SILENT * energy.amax(1, keepdim=True)).float()
    weight = heard / heard.sum(1, keepdim=True).clamp(min=1)

    def mean(x: Tensor) -> Tensor:  # over frames that count
        return torch.einsum("bt,bt...->b...", weight, x)

    peak = bands.amax((1, 2), keepdim=True).clamp(min=1e-20)
    log = (bands / peak + 1e-7).log()
    log = log - mean(log).mean(-1)[:, None, None]
    cepstra = log @ _cosines(log.shape[-1], log)
    centre = mean(cepstra)
    apart = cepstra - centre[:, None]
    spread = mean(apart.square()).sqrt()
    skew = mean(apart[..., :SHAPES] ** 3) / (spread[..., :SHAPES] ** 3 + 1e-3)
    steps = mean(F.pad((cepstra[:, 1:] - cepstra[:, :-1]).abs(), (0, 0, 0, 1)))
    loudness = (energy / energy.amax(1, keepdim=True).clamp(min=1e-20) + 1e-7).log()
    groups = torch.stack([part.mean(-1) for part in log.tensor_split(GROUPS, -1)], 1)
    modulation = _modulation(torch.cat((loudness[:, None], groups), 1) * heard[:, None])
    slow = _slow(cepstra * heard[..., None], mean)
    flat = (power.clamp(min=1e-20).log().mean(-1) - power.mean(-1).clamp(min=1e-20).log()).clamp(min=-15)
    flatness = mean(flat)
    tone = torch.stack([flatness, (mean(flat.square()) - flatness.square()).clamp(min=0).sqrt(), heard.mean(1) * 3], 1)
    return torch.cat((centre / 4, spread / 2, steps, skew, modulation / 3, slow, tone / 3, _tonality(power, mean)), 1)


def _cosines(bands: int, like: Tensor) -> Tensor:
    """[bands, cepstra] of the discrete cosine transform."""
    place = torch.arange(bands, device=like.device, dtype=like.dtype) + 0.5
    order = torch.arange(CEPSTRA, device=like.device, dtype=like.dtype)
    return (place[:, None] * order * math.pi / bands).cos() / bands**0.5


def _modulation(x: Tensor) -> Tensor:
    """[clips, lines, frames] -> the log of their modulation spectra in a few bands, [clips, values]."""
    x = x - x.mean(-1, keepdim=True)
    x = F.pad(x, (0, max(0, MODULATION - x.shape[-1])))
    window = torch.hann_window(MODULATION, device=x.device)
    spectra = torch.fft.rfft(x.unfold(-1, MODULATION, MODULATION // 2) * window).abs().square().mean(2)
    parts = [spectra[..., a:b].mean(-1) for a, b in zip(EDGES[:-1], EDGES[1:], strict=True)]
    return (torch.stack(parts, -1) + 1e-3).log().flatten(1)


def _slow(cepstra: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """How much the sound's colour changes within an eighth of a second, and within half of one."""
    found = []
    for frames in (8, 32):
        lag = min(frames, cepstra.shape[1] - 1)  # a clip may be short
        found.append(mean(F.pad((cepstra[:, lag:] - cepstra[:, : cepstra.shape[1] - lag]).abs(), (0, 0, 0, lag))))
    return torch.cat(found, 1)


def _tonality(power: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """How far bins stand out from their neighbours, in four ranges."""
    log = (power / power.mean((1, 2), keepdim=True).clamp(min=1e-20) + 1e-7).log()
    out = (log[..., 1:-1] - 0.5 * (log[..., :-2] + log[..., 2:])).clamp(min=0)
    bins = out.shape[-1]
    edges = [min(2, bins - 1)]
    for share in (32, 8, 2, 1):  # no range is empty, however few bins there are
        edges.append(max(edges[-1] + 1, round(bins / share)))
    return torch.stack([mean(out[..., a:b].mean(-1)) for a, b in zip(edges[:-1], edges[1:], strict=True)], 1)
