"""Tuples of blocks in kernels, which grow in unrolled loops."""

import triton
import triton.language as tl  # noqa: F401  (Triton's interpreter demands it of every kernel's file)


@triton.jit
def empty():
    """To begin with. mypy, which does not know that the loops are unrolled, would hold `()` to its length."""
    return ()
