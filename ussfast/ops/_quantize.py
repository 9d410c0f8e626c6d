"""The reduced precisions of the CPU kernels, in plain PyTorch: what they compute, not how.

float32 is the truth. bfloat16 rounds both factors of a product and adds in float32. int8 takes weights per output
channel and activations per row, both symmetric around zero, and adds integers exactly.
"""

import torch
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import uses_reference

PRECISIONS = ("float32", "bfloat16", "int8")


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def under_autocast(x: Tensor, precision: str) -> str:
    """The precision for x; bfloat16 instead of float32 where PyTorch's autocast asks for it and GPU kernels run.

    The plain reference needs nothing: its products are PyTorch's, which autocast knows.
    """
    wanted = x.is_cuda and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16
    return "bfloat16" if wanted and precision == "float32" and not uses_reference() else precision


def round_bfloat16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


def round_int8(x: Tensor, peak: Tensor | float) -> Tensor:
    """x in 255 equal steps from -peak to peak (a tensor that broadcasts, or one number); 0 where peak is 0."""
    unit = torch.as_tensor(peak, dtype=x.dtype, device=x.device) / 127
    return torch.where(unit > 0, torch.round(x / unit).clamp(-127, 127) * unit, 0)
