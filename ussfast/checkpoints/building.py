"""Models that are built to be filled with weights: nothing is drawn at random, and nothing is larger than they are."""

import math
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ussfast.errors import InputError

FRESH = (torch.empty, torch.zeros, torch.ones, torch.full, torch.randn, torch.rand)
# What models compute for themselves, such as filter banks.
SPARE_TENSORS, SPARE_NUMBERS = 100, 1 << 22


class Sparing(TorchFunctionMode):
    """Random tensors stay uninitialised: they are about to be replaced, and the caller's generator is left alone. As
    many tensors and numbers as the weights hold, and some more, can be made: InputError before a configuration that is
    not theirs takes memory and time.

    The meta device would do the first, but its first use costs two seconds of imports.
    """

    def __init__(self, tensors: int, numbers: int):
        super().__init__()
        self.holds = f"{tensors} tensors with {numbers} numbers"
        self.tensors, self.numbers = tensors + SPARE_TENSORS, numbers + SPARE_NUMBERS

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FRESH or func is torch.Tensor.clone:
            self._count(args, kwargs)
        # Both the methods of tensors and the functions of torch.nn.init that end in them.
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func in (torch.randn, torch.rand) else func)(*args, **kwargs)

    def _count(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = kwargs["size"] if "size" in kwargs else args[0]
        if isinstance(first, torch.Tensor):
            count = first.numel()
        else:
            count = math.prod(args if isinstance(first, int) else first)
        self.tensors -= 1
        self.numbers -= count
        if self.tensors < 0 or self.numbers < 0:
            raise InputError(f"it is that of a larger model than the weights, {self.holds}")
