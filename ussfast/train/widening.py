"""Voices of a narrow band made full-band by spectral replication, in batches on the audio's device.

Source: Dietz, Liljeryd, Kjoerling and Kunz, "Spectral band replication, a novel approach in audio coding", AES 112th
Convention, 2002: what is copied upward swells and fades with the voice.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from ussfast.train.augment import Parameter

FLOOR_DB = -50.0  # over the level two octaves below the edge: less is beyond the edge
JOIN = (0.92, 0.98)  # of the edge that is found: where the copies fade in
MOST_GAIN = 4.0


def widen(x: Tensor, edge: Parameter, fall_db: Parameter, rate: int, lift_db: Parameter = (0.0,)) -> Tensor:
    """Every row with the octave below its edge copied upward, again and again, up to half the rate.

    The copies' long-term level is at the join what the row's is there, but for the lift, and falls from there on; their
    tilt is taken out. The real edge is looked for: the highest frequency whose long-term level is above FLOOR_DB.

    Args:
        x: [rows, samples].
        edge: Hz, above which there is nothing; the real edge lies between half of it and itself. Rows whose edge is at
            half the rate come back up to rounding.
        fall_db: dB per octave.
        lift_db: of the copies; no bin is raised by more than MOST_GAIN over what it is copied from.
        rate: Hz.
    """
    device, count = x.device, x.shape[1]
    size = max(64, 1 << round(np.log2(rate / 32)))
    hop, bins = size // 4, size // 2 + 1
    number = torch.arange(bins, device=device)
    window = torch.hann_window(size, device=device)
    spectrum = torch.stft(x, size, hop, window=window, pad_mode="constant", return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1).mean(-1)  # [rows, bins]
    around = round(300 * size / rate)
    smooth = avg_pool1d(power[:, None], 2 * around + 1, 1, around, count_include_pad=False)[:, 0]

    def column(values: Parameter) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.float32), device=device).reshape(-1, 1)

    def mean(first: Tensor, last: Tensor) -> Tensor:
        """Power of bins from `first` to below `last`."""
        inside = (number >= first) & (number < last)
        return (power * inside).sum(-1, keepdim=True) / inside.sum(-1, keepdim=True).clamp(min=1)

    nominal = column(edge) * (size / rate)
    loud = (power >= mean(nominal / 4, nominal / 2) * 10 ** (FLOOR_DB / 10)) & (number <= nominal)
    found = torch.where(loud, number, 0).amax(-1, keepdim=True).maximum(nominal / 2)
    # A row that reaches half the rate has nothing above it to fill.
    found = torch.where(nominal >= bins - 1, 2.0 * bins, found)
    start, end = (found * JOIN[0]).round(), (found * JOIN[1]).round()
    # Moved by multiples of four bins, at a hop of a quarter, phases fit from frame to frame.
    width = (4 * torch.floor(start / 8)).clamp(min=4)
    source = (number - width * torch.floor((number - start) / width + 1)).long()
    copied = number >= start
    source = torch.where(copied, source, number)
    level = mean(0.85 * start, start) * 10 ** (
        (column(lift_db) - column(fall_db) * torch.log2(number.clamp(min=1) / start)) / 10
    )
    gain = (level / smooth.gather(1, source).clamp(min=1e-12)).sqrt().clamp(max=MOST_GAIN)
    phase = ((number - start) / (end - start).clamp(min=1)).clamp(0, 1) * (torch.pi / 2)
    made = spectrum.gather(1, source[..., None].expand_as(spectrum)) * (gain * torch.sin(phase))[..., None]
    made += spectrum * torch.cos(phase)[..., None]
    return torch.istft(torch.where(copied[..., None], made, spectrum), size, hop, window=window, length=count)
