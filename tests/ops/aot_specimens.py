"""Kernels with faults that ussfast.ops.aot must find, in the form of a file of ops/_triton."""

import torch
import triton
import triton.language as tl

from ussfast.ops._triton._call import Call, tile
from ussfast.ops._triton._launch import launch


@triton.jit
def _crowded_kernel(x, y, BLOCK: tl.constexpr):
    # Every value stays in use to the end: far more than one warp has registers for.
    at = tl.arange(0, BLOCK)
    kept = tl.load(x + at)
    total = tl.sum(kept, 0)
    tl.store(y + at, kept * total)
    tl.store(y + BLOCK + at, kept + tl.cumsum(kept * total, 0))


@triton.jit
def _product_kernel(x, y, MATRIX: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    a = tl.load(x + at)
    if MATRIX:
        out = tl.dot(a, a)
    else:
        out = a.to(tl.float32) * 2
    tl.store(y + at, out)


@triton.jit
def _wrong_kernel(x, y, BLOCK: tl.constexpr):
    tl.store(y + tl.arange(0, BLOCK), tl.load(x + tl.arange(0, 2 * BLOCK)))


def _run(kernel, dtype, **constants):
    x = torch.empty(1 << 20, dtype=dtype, device="meta")
    blocks = {"BLOCK": constants.pop("BLOCK")}
    matrix = "MATRIX" in constants
    call = Call(kernel, lambda t: (1,), {"x": x, "y": x.float()}, constants, (tile(1, 1, **blocks),), matrix)
    launch(call, x.device)


def specimens():
    yield "crowded", lambda: _run(_crowded_kernel, torch.float32, BLOCK=16384), ()
    yield "matrix", lambda: _run(_product_kernel, torch.bfloat16, MATRIX=True, BLOCK=32), ()
    yield "no matrix", lambda: _run(_product_kernel, torch.bfloat16, MATRIX=False, BLOCK=32), ()
    yield "wrong", lambda: _run(_wrong_kernel, torch.float32, BLOCK=32), ()
