"""What a launcher describes: one kernel call and the tiles that it may take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Tile:
    """What may differ from device to device without changing results: block sizes, warps and pipeline stages."""

    blocks: tuple[tuple[str, int], ...]
    num_warps: int = 4
    num_stages: int = 2

    def __getitem__(self, name: str) -> int:
        return dict(self.blocks)[name]

    def options(self) -> dict[str, int]:
        return dict(self.blocks) | {"num_warps": self.num_warps, "num_stages": self.num_stages}


def tile(num_warps: int = 4, num_stages: int = 2, **blocks: int) -> Tile:
    return Tile(tuple(sorted(blocks.items())), num_warps, num_stages)


@dataclass(frozen=True)
class Call:
    """One kernel call.

    kernel: the jitted function.
    grid: numbers of programs, given the tile.
    arguments: tensors, numbers and None by name: what the kernel gets at run time.
    constants: its tl.constexpr arguments, without the tile's.
    tiles: candidates, the default first. All of them give the same results.
    matrix: the kernel multiplies matrices, so its code must use the matrix units.
    """

    kernel: Any
    grid: Callable[[Tile], tuple[int, ...]]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    tiles: tuple[Tile, ...]
    matrix: bool = False

    @property
    def name(self) -> str:
        return self.kernel.__name__

    def run(self, chosen: Tile) -> None:
        self.kernel[self.grid(chosen)](**self.arguments, **self.constants, **chosen.options())

    def key(self) -> str:
        """What a tuned tile depends on: constants, types, and sizes to within a factor of two."""
        parts = [f"{name}={getattr(value, '__name__', value)}" for name, value in sorted(self.constants.items())]
        for name, value in sorted(self.arguments.items()):
            if torch.is_tensor(value):
                parts.append(f"{name}:{str(value.dtype)[6:]}")
            elif isinstance(value, int):
                parts.append(f"{name}<2^{value.bit_length()}")
        return " ".join(parts)
