"""Backward kernels of biased_cross_attention: queries, keys and values, and scores summed over the batch."""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._call import Call
from ussfast.ops._triton._cross_attention import bias_block, rows, slope_factor, tiles
from ussfast.ops._triton._launch import launch

# Programs that should exist where the batch is summed: it is cut into so many parts. Whatever the device, so that
# results do not depend on it.
_PROGRAMS = 1024
# Sums of scores are as large as the bias: bytes that their parts may take.
_PARTS_BYTES = 1 << 26


@triton.jit
def weights_and_slopes(one, other, value, wanted, added, lse, delta, scale, PRECISION: tl.constexpr):
    """Softmax weights, and the gradient of scores: [queries, keys] of (q, k, grad, v), or [keys, queries] of (k, q,
    v, grad)."""
    scores = tl.dot(one, tl.trans(other), input_precision=PRECISION) * scale + added
    weight = tl.exp2(scores - lse)
    return weight, weight * (tl.dot(value, tl.trans(wanted), input_precision=PRECISION) - delta)


@triton.jit
def _biased_cross_attention_bwd_q_kernel(
    q, k, v, bias, slope, grad, lse, delta, out, batch, queries, keys, heads, scale, per, q_item, q_row, q_head,
    k_item, k_row, k_head, v_item, v_row, v_head, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    program, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    blocks = tl.cdiv(queries, BLOCK_Q)
    query = program % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    part = program // blocks
    factor = slope_factor(slope, head)
    if bias is not None:
        bias += head.to(tl.int64) * queries * keys
    found = tl.zeros((BLOCK_Q, BLOCK_W), tl.float32)
    start = part.to(tl.int64) * per
    for i in range(tl.minimum(per, batch - part * per)):
        item = start + i
        asked = rows(q + item * q_item + head * q_head, query, queries, q_row, WIDTH, BLOCK_W).to(DOT)
        base = (item * queries * heads + head) * WIDTH
        wanted = rows(grad + base, query, queries, heads * WIDTH, WIDTH, BLOCK_W).to(DOT)
        row = (item * heads + head) * queries + query
        top = tl.load(lse + row, query < queries, float("inf"))[:, None]
        mean = tl.load(delta + row, query < queries, 0.0)[:, None]
        for at in range(0, keys, BLOCK_K):
            key = at + tl.arange(0, BLOCK_K)
            known = rows(k + item * k_item + head * k_head, key, keys, k_row, WIDTH, BLOCK_W).to(DOT)
            value = rows(v + item * v_item + head * v_head, key, keys, v_row, WIDTH, BLOCK_W).to(DOT)
            added = bias_block(bias, factor, query[:, None], key[None, :], queries, keys)
            _, change = weights_and_slopes(asked, known, wanted, value, added, top, mean, scale, PRECISION)
            found = tl.dot(change.to(DOT), known, found, input_precision=PRECISION)
    column = tl.arange(0, BLOCK_W)[None, :]
    place = ((part.to(tl.int64) * queries + query[:, None]) * heads + head) * WIDTH + column
    found *= scale / 1.4426950408889634
    tl.store(out + place, found.to(out.dtype.element_ty), (query[:, None] < queries) & (column < WIDTH))


@triton.jit
def _biased_cross_attention_bwd_kv_kernel(
    q, k, v, bias, slope, grad, lse, delta, k_out, v_out, batch, queries, keys, heads, scale, q_item, q_row,
    q_head, k_item, k_row, k_head, v_item, v_row, v_head, WIDTH: tl.constexpr,
    BLOCK_W: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    program, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    blocks = tl.cdiv(keys, BLOCK_K)
    key = program % blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    item = (program // blocks).to(tl.int64)
    factor = slope_factor(slope, head)
    if bias is not None:
        bias += head.to(tl.int64) * queries * keys
    known = rows(k + item * k_item + head * k_head, key, keys, k_row, WIDTH, BLOCK_W).to(DOT)
    value = rows(v + item * v_item + head * v_head, key, keys, v_row, WIDTH, BLOCK_W).to(DOT)
    k_found = tl.zeros((BLOCK_K, BLOCK_W), tl.float32)
    v_found = tl.zeros((BLOCK_K, BLOCK_W), tl.float32)
    base = (item * queries * heads + head) * WIDTH
    for at in range(0, queries, BLOCK_Q):
        query = at + tl.arange(0, BLOCK_Q)
        asked = rows(q + item * q_item + head * q_head, query, queries, q_row, WIDTH, BLOCK_W).to(DOT)
        wanted = rows(grad + base, query, queries, heads * WIDTH, WIDTH, BLOCK_W).to(DOT)
        row = (item * heads + head) * queries + query
        top = tl.load(lse + row, query < queries, float("inf"))[None, :]
        mean = tl.load(delta + row, query < queries, 0.0)[None, :]
        added = bias_block(bias, factor, query[None, :], key[:, None], queries, keys)
        weight, change = weights_and_slopes(known, asked, value, wanted, added, top, mean, scale, PRECISION)
        v_found = tl.dot(weight.to(DOT), wanted, v_found, input_precision=PRECISION)
        k_found = tl.dot(change.to(DOT), asked, k_found, input_precision=PRECISION)
    column = tl.arange(0, BLOCK_W)[None, :]
    place = ((item * keys + key[:, None]) * heads + head) * WIDTH + column
    mask = (key[:, None] < keys) & (column < WIDTH)
    tl.store(k_out + place, (k_found * (scale / 1.4426950408889634)).to(k_out.dtype.element_ty), mask)
    tl.store(v_out + place, v_found.to(v_out.dtype.element_ty), mask)


@triton.jit
def _biased_cross_attention_bwd_scores_kernel(
    q, k, v, bias, slope, grad, lse, delta, out, batch, queries, keys, heads, scale, per, q_item, q_row, q_head,
    k_item, k_row, k_head, v_item, v_row, v_head, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    program, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    across, down = tl.cdiv(keys, BLOCK_K), tl.cdiv(queries, BLOCK_Q)
    key = program % across * BLOCK_K + tl.arange(0, BLOCK_K)
    query = program // across % down * BLOCK_Q + tl.arange(0, BLOCK_Q)
    part = program // across // down
    if bias is not None:
        bias += head.to(tl.int64) * queries * keys
    added = bias_block(bias, slope_factor(slope, head), query[:, None], key[None, :], queries, keys)
    found = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
    start = part.to(tl.int64) * per
    for i in range(tl.minimum(per, batch - part * per)):
        item = start + i
        asked = rows(q + item * q_item + head * q_head, query, queries, q_row, WIDTH, BLOCK_W).to(DOT)
        known = rows(k + item * k_item + head * k_head, key, keys, k_row, WIDTH, BLOCK_W).to(DOT)
        value = rows(v + item * v_item + head * v_head, key, keys, v_row, WIDTH, BLOCK_W).to(DOT)
        base = (item * queries * heads + head) * WIDTH
        wanted = rows(grad + base, query, queries, heads * WIDTH, WIDTH, BLOCK_W).to(DOT)
        row = (item * heads + head) * queries + query
        top = tl.load(lse + row, query < queries, float("inf"))[:, None]
        mean = tl.load(delta + row, query < queries, 0.0)[:, None]
        _, change = weights_and_slopes(asked, known, wanted, value, added, top, mean, scale, PRECISION)
        found += change
    place = ((part.to(tl.int64) * heads + head) * queries + query[:, None]) * keys + key[None, :]
    tl.store(out + place, found, (query[:, None] < queries) & (key[None, :] < keys))


def gradients(
    arguments: dict[str, Any], constants: dict[str, Any], args: tuple, need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Of q, k, v, bias and slope where they are needed; arguments as for the forward kernel, with its statistics."""
    q, k, v, bias, slope, _ = args
    found: list[Tensor | None] = [None] * len(args)
    if need[0]:
        found[0] = _of_queries(arguments, constants, q)
    if need[1] or need[2]:
        both = _of_keys(arguments, constants, k, v)
        found[1], found[2] = (value if n else None for value, n in zip(both, need[1:3], strict=True))
    if need[3] or need[4]:
        scores = _of_scores(arguments, constants)
        if need[3]:
            scaled = scores if slope is None else scores * slope.float()[:, None, None]
            found[3] = scaled.to(bias.dtype)
        if need[4]:
            seen = bias.float().masked_fill(bias == -math.inf, 0)
            found[4] = (scores * seen).sum((1, 2)).to(slope.dtype)
    return tuple(found)


def _parts(batch: int, programs: int) -> tuple[int, int]:
    """How many parts the batch is cut into if each takes so many programs, and the items of one."""
    per = triton.cdiv(batch, max(1, min(batch, _PROGRAMS // programs)))
    return triton.cdiv(batch, per), per


def _of_queries(arguments: dict[str, Any], constants: dict[str, Any], q: Tensor) -> Tensor:
    batch, queries, heads = (arguments[name] for name in ("batch", "queries", "heads"))
    shared = q.shape[0] < batch
    parts, per = _parts(batch, heads * triton.cdiv(queries, 64)) if shared else (batch, 1)
    out = q.new_empty(parts, *q.shape[1:], dtype=torch.float32 if shared else q.dtype)
    sizes: tuple[tuple[int, ...], ...] = ((64, 32, 4, 2), (64, 64, 8, 2), (32, 32, 2, 2), (128, 32, 8, 2))
    if queries <= 32:
        sizes = ((32, 32, 2, 1), (32, 64, 2, 1), (32, 32, 2, 2))
    call = Call(
        _biased_cross_attention_bwd_q_kernel,
        lambda t: (parts * triton.cdiv(queries, t["BLOCK_Q"]) * heads,),
        arguments | {"out": out, "per": per},
        constants,
        tiles(arguments, sizes, ("BLOCK_Q", "BLOCK_K")),
        matrix=True,
    )
    launch(call, q.device)
    return out.sum(0, keepdim=True).to(q.dtype) if shared else out


def _of_keys(arguments: dict[str, Any], constants: dict[str, Any], k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    batch, keys, heads = (arguments[name] for name in ("batch", "keys", "heads"))
    k_out, v_out = k.new_empty(k.shape), v.new_empty(v.shape)
    sizes: tuple[tuple[int, ...], ...] = ((32, 64, 4, 2), (64, 64, 4, 2), (64, 64, 8, 2), (64, 32, 2, 2))
    if arguments["queries"] <= 32:  # a single block: there is nothing to load ahead
        sizes = ((32, 64, 4, 1), (32, 32, 2, 1), (32, 64, 2, 1))
    call = Call(
        _biased_cross_attention_bwd_kv_kernel,
        lambda t: (batch * triton.cdiv(keys, t["BLOCK_K"]) * heads,),
        arguments | {"k_out": k_out, "v_out": v_out},
        constants,
        tiles(arguments, sizes, ("BLOCK_Q", "BLOCK_K"), down="BLOCK_K"),
        matrix=True,
    )
    launch(call, k.device)
    return k_out, v_out


def _of_scores(arguments: dict[str, Any], constants: dict[str, Any]) -> Tensor:
    """Summed over the batch: [heads, queries, keys] float32."""
    batch, queries, keys, heads = (arguments[name] for name in ("batch", "queries", "keys", "heads"))
    room = max(1, _PARTS_BYTES // (4 * heads * queries * keys))
    programs = heads * triton.cdiv(queries, 64) * triton.cdiv(keys, 64)
    parts, per = _parts(batch, max(programs, _PROGRAMS // room))
    out = arguments["lse"].new_empty(parts, heads, queries, keys)
    call = Call(
        _biased_cross_attention_bwd_scores_kernel,
        lambda t: (parts * triton.cdiv(queries, t["BLOCK_Q"]) * triton.cdiv(keys, t["BLOCK_K"]) * heads,),
        arguments | {"out": out, "per": per},
        constants,
        tiles(arguments, ((64, 32, 4, 2), (64, 64, 8, 2), (32, 32, 2, 2), (128, 32, 8, 2)), ("BLOCK_Q", "BLOCK_K")),
        matrix=True,
    )
    launch(call, out.device)
    return out.sum(0)
