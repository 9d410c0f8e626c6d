"""One spectrum that stands for the channels of a recording, so that they can get the same masks."""

import torch
from torch import Tensor


def linked(spec: Tensor, dim: int) -> Tensor:
    """The root of the channels' mean power, at the phase of their sum, to which the first adds as it is and each other
    one with the sign that makes it larger: nothing vanishes where phases are opposite, and a sound that is panned at
    constant power keeps its level.

    Bin by bin and without a memory, so that it is the same at once and frame by frame.

    Args:
        spec: complex, with an axis of channels.
        dim: that axis, which goes away.
    """
    channels = spec.unbind(dim)
    if len(channels) == 1:
        return channels[0]
    total, power = channels[0], _power(channels[0])
    for other in channels[1:]:
        opposite = total.real * other.real + total.imag * other.imag < 0
        total = total + torch.where(opposite, -other, other)
        power = power + _power(other)
    return total * ((power / len(channels)).sqrt() / total.abs().clamp(min=1e-30))


def _power(spec: Tensor) -> Tensor:
    return spec.real.square() + spec.imag.square()
