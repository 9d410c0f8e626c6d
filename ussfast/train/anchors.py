"""From weakly labelled clips to training pairs: the part of a clip where its class is heard, and mixtures of two.

Source: Chen et al., "Zero-shot Audio Source Separation through Query-based Learning from Weakly-labeled Data",
AAAI 2022.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError

MOST_GAIN = 50.0  # a clip becomes this much louder or quieter at most
QUIETEST = 1e-8  # mean square that a quieter clip counts as


def anchor_starts(curves: Tensor, samples: int, length: int, hop: int = 320, span: int = 200) -> Tensor:
    """Where the segment begins in which the class of each clip is heard most.

    As published, sums go over `span` rows although rows of a stretched curve are a little shorter than frames.

    Args:
        curves: [clips, rows] scores of the clip's class over time, spread evenly over the clip.
        samples: of each clip. length: of the segment, in samples. hop: samples of a frame.
        span: rows that count together, even.
    Returns:
        int64 [clips], first samples: all segments lie within their clips.
    Raises:
        InputError: clips shorter than the segment.
    """
    if length > samples:
        raise InputError(f"segments of {length} samples do not fit into clips of {samples}")
    half = span // 2
    # Row k stands for rows k - half to k + half - 1, with zeros beyond the ends; the first maximum wins.
    sums = F.pad(curves.double(), (half, half - 1)).unfold(1, span, 1).sum(2)
    frames = samples // hop
    centre = sums.argmax(1) * frames // curves.shape[1]
    reach = length // (2 * hop)
    start = (centre.clamp(reach, max(frames - reach, reach)) - reach) * hop
    return start.clamp(max=samples - length)


def mix_pairs(audio: Tensor) -> tuple[Tensor, Tensor]:
    """Mixtures of two clips each, the second scaled to the energy of the first.

    Args:
        audio: [2 pairs, samples]; 0 and 1 are a pair, 2 and 3, ...
    Returns:
        mixtures and sources, both [2 pairs, samples]: of each pair the mixture is there twice, once per source.
    Raises:
        InputError: an odd number of clips.
    """
    if len(audio) % 2:
        raise InputError(f"pairs need an even number of clips, got {len(audio)}")
    pairs = audio.unflatten(0, (-1, 2))
    energy = pairs.square().mean(-1, keepdim=True)
    gain = (energy[:, 0] / energy[:, 1].clamp(min=QUIETEST)).sqrt().clamp(1 / MOST_GAIN, MOST_GAIN)
    sources = torch.stack([pairs[:, 0], pairs[:, 1] * gain], 1)
    return sources.sum(1, keepdim=True).expand_as(sources).flatten(0, 1), sources.flatten(0, 1)
