"""Tiles of the kernels of locoformer_attention: the default first, then others worth measuring.

The smallest registers decide: sums [rows, channels] and [rows, keys] are kept in them, and three products of TF32
parts need both parts of both factors. bench/NOTES.md has what the defaults compile to.
"""

import torch

from ussfast.ops._triton._call import Tile, tile
from ussfast.ops._triton.locoformer_attention.layout import Layout


def longest_short(capability: int, lay: Layout) -> int:
    """Length up to which one program holds whole sequences: their scores and all else must fit into registers."""
    if lay.half > 16 or lay.padded_channels > 128:
        return 0
    if lay.dtype == torch.float32:
        return 16 if lay.padded_channels <= 64 else 0
    return 64 if lay.padded_channels <= 64 or 90 <= capability < 120 else 0


def _single(lay: Layout) -> bool:
    return lay.dtype == torch.float32


def _wide(lay: Layout) -> bool:
    """Wider than any of the models: tiles are as small as they must be, and some of them spill a little."""
    return lay.padded_channels > 128 or lay.half > 32


def _medium(lay: Layout) -> bool:
    return lay.padded_channels <= 64 and lay.half <= 16


def short(capability: int, lay: Layout) -> tuple[Tile, ...]:
    if _single(lay):
        return (tile(ROWS=16, num_warps=8, num_stages=1),)
    if lay.padded_channels > 64:
        return (tile(ROWS=64, num_warps=8, num_stages=2), tile(ROWS=64, num_warps=4, num_stages=2))
    return (
        tile(ROWS=64, num_warps=4, num_stages=2),
        tile(ROWS=64, num_warps=4, num_stages=1),
        tile(ROWS=64, num_warps=8, num_stages=2),
        tile(ROWS=128, num_warps=8, num_stages=2),
    )


def rows(capability: int, lay: Layout) -> tuple[Tile, ...]:
    """Of the kernels that take rows whatever sequence they belong to: the projection, forwards and backwards."""
    if _single(lay):
        small = tile(ROWS=16, num_warps=8, num_stages=1)
        return (tile(ROWS=32, num_warps=4, num_stages=1), small) if _medium(lay) else (small,)
    if _wide(lay):
        return (tile(ROWS=32, num_warps=8, num_stages=1), tile(ROWS=64, num_warps=8, num_stages=1))
    four, eight = tile(ROWS=64, num_warps=4, num_stages=2), tile(ROWS=64, num_warps=8, num_stages=2)
    # Four warps spill a little there.
    if capability >= 100 and lay.padded_channels > 64:
        return (eight, four)
    return (four, eight, tile(ROWS=128, num_warps=8, num_stages=2))


def flash(capability: int, lay: Layout) -> tuple[Tile, ...]:
    if _single(lay):
        small = tile(ROWS=32, KEYS=32, num_warps=8, num_stages=1)
        if _wide(lay):
            return (tile(ROWS=16, KEYS=32, num_warps=8, num_stages=1),)
        # A second stage spills a little there.
        large = tile(ROWS=64, KEYS=32, num_warps=8, num_stages=1 if capability >= 100 else 2)
        return (large, small) if _medium(lay) else (small,)
    if _wide(lay):
        return (tile(ROWS=64, KEYS=32, num_warps=8), tile(ROWS=64, KEYS=64, num_warps=8))
    return (
        tile(ROWS=64, KEYS=64, num_warps=4),
        tile(ROWS=64, KEYS=64, num_warps=4, num_stages=3),
        tile(ROWS=128, KEYS=64, num_warps=8),
        tile(ROWS=128, KEYS=64, num_warps=8, num_stages=3),
    )


def mixed(capability: int, lay: Layout) -> tuple[Tile, ...]:
    """Of the repetition of `flash` in the backward pass."""
    if _single(lay) and not _medium(lay) and not _wide(lay):
        return (tile(ROWS=16, KEYS=32, num_warps=4, num_stages=1), tile(ROWS=64, KEYS=16, num_warps=8, num_stages=1))
    return flash(capability, lay)


def keys(capability: int, lay: Layout) -> tuple[Tile, ...]:
    if _single(lay):
        small = tile(ROWS=32, KEYS=32, num_warps=4)
        if _wide(lay):
            return (tile(ROWS=16, KEYS=32, num_warps=8, num_stages=1),)
        return (tile(ROWS=32, KEYS=64, num_warps=8), small) if lay.half <= 16 else (small,)
    if _wide(lay):
        return (tile(ROWS=32, KEYS=64, num_warps=8), tile(ROWS=64, KEYS=64, num_warps=8))
    return (tile(ROWS=64, KEYS=64, num_warps=4), tile(ROWS=64, KEYS=128, num_warps=8))


def queries(capability: int, lay: Layout) -> tuple[Tile, ...]:
    if _single(lay):
        small = tile(ROWS=32, KEYS=32, num_warps=4)
        if _wide(lay):
            return (tile(ROWS=32, KEYS=16, num_warps=8, num_stages=1),)
        return (tile(ROWS=64, KEYS=32, num_warps=8), small) if lay.half <= 16 else (small,)
    if _wide(lay):
        return (tile(ROWS=64, KEYS=32, num_warps=8), tile(ROWS=64, KEYS=64, num_warps=8))
    return (tile(ROWS=64, KEYS=64, num_warps=4), tile(ROWS=128, KEYS=64, num_warps=8))
