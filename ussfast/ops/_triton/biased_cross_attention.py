"""Triton kernel of ussfast.ops.biased_cross_attention: softmax over blocks of keys, several items per program."""

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._call import Call
from ussfast.ops._triton._cross_attention import bias_block, common, rows, slope_factor, taken, tiles
from ussfast.ops._triton._cross_attention_backward import gradients
from ussfast.ops._triton._launch import capability, launch
from ussfast.ops._triton._tuples import empty
from ussfast.ops.biased_cross_attention import reference


@triton.jit
def _biased_cross_attention_fwd_kernel(
    q, k, v, bias, slope, y, grad, lse, delta, batch, queries, keys, heads, scale,
    q_item, q_row, q_head, k_item, k_row, k_head, v_item, v_row, v_head, WIDTH: tl.constexpr,
    BLOCK_W: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, ITEMS: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    # Heads first: those of one item lie side by side in memory, 32 bytes each.
    program, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    blocks = tl.cdiv(queries, BLOCK_Q)
    query = program % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    start = program // blocks * ITEMS
    factor = slope_factor(slope, head)
    if bias is not None:
        bias += head.to(tl.int64) * queries * keys
    asked, mixed, highest, total = empty(), empty(), empty(), empty()
    for i in tl.static_range(ITEMS):
        item = tl.minimum(start + i, batch - 1).to(tl.int64)
        asked += (rows(q + item * q_item + head * q_head, query, queries, q_row, WIDTH, BLOCK_W).to(DOT),)
        mixed += (tl.zeros((BLOCK_Q, BLOCK_W), tl.float32),)
        highest += (tl.full((BLOCK_Q,), float("-inf"), tl.float32),)
        total += (tl.zeros((BLOCK_Q,), tl.float32),)
    for at in range(0, keys, BLOCK_K):
        key = at + tl.arange(0, BLOCK_K)
        # One block of the bias for several items: reading it costs more than their products.
        added = bias_block(bias, factor, query[:, None], key[None, :], queries, keys)
        mixed_next, highest_next, total_next = empty(), empty(), empty()
        for i in tl.static_range(ITEMS):
            item = tl.minimum(start + i, batch - 1).to(tl.int64)
            known = rows(k + item * k_item + head * k_head, key, keys, k_row, WIDTH, BLOCK_W).to(DOT)
            value = rows(v + item * v_item + head * v_head, key, keys, v_row, WIDTH, BLOCK_W).to(DOT)
            scores = tl.dot(asked[i], tl.trans(known), input_precision=PRECISION) * scale + added
            top = tl.maximum(highest[i], tl.max(scores, 1))
            # While all keys have been hidden the difference would be that of infinities.
            finite = tl.where(top == float("-inf"), 0.0, top)
            weight = tl.exp2(scores - finite[:, None])
            shrink = tl.exp2(highest[i] - finite)
            partial = mixed[i] * shrink[:, None]
            mixed_next += (tl.dot(weight.to(DOT), value, partial, input_precision=PRECISION),)
            total_next += (total[i] * shrink + tl.sum(weight, 1),)
            highest_next += (top,)
        mixed, highest, total = mixed_next, highest_next, total_next
    column = tl.arange(0, BLOCK_W)[None, :]
    for i in tl.static_range(ITEMS):
        out = mixed[i] / total[i][:, None]
        item = (start + i).to(tl.int64)
        inside = (query < queries) & (start + i < batch)
        place = ((item * queries + query[:, None]) * heads + head) * WIDTH + column
        mask = inside[:, None] & (column < WIDTH)
        if y is not None:
            tl.store(y + place, out.to(y.dtype.element_ty), mask)
        if lse is not None:
            row = (item * heads + head) * queries + query
            tl.store(lse + row, highest[i] + tl.log2(total[i]), inside)
            wanted = tl.load(grad + place, mask, 0.0).to(tl.float32)
            tl.store(delta + row, tl.sum(out * wanted, 1), inside)


def _call(arguments: dict, constants: dict, **more: Tensor | None) -> Call:
    if constants["DOT"] == tl.float32 or constants["BLOCK_W"] > 32:
        sizes = (1, 64, 32, 4, 2), (2, 64, 32, 4, 2), (1, 64, 64, 8, 2), (1, 128, 32, 8, 2)
    elif arguments["queries"] <= 32:
        sizes = (2, 32, 32, 2, 2), (1, 32, 64, 2, 2), (1, 32, 32, 2, 3), (4, 32, 32, 2, 2)
    elif capability(arguments["q"]) < 90:
        sizes = (2, 64, 32, 4, 2), (1, 64, 64, 4, 2), (1, 64, 32, 4, 3), (2, 128, 32, 8, 2)
    else:
        sizes = (2, 64, 64, 4, 2), (1, 64, 64, 4, 3), (4, 64, 32, 4, 2), (2, 128, 64, 8, 2)
    batch, queries, heads = (arguments[name] for name in ("batch", "queries", "heads"))
    outputs: dict[str, Tensor | None] = dict.fromkeys(("y", "grad", "lse", "delta"))
    return Call(
        _biased_cross_attention_fwd_kernel,
        lambda t: (triton.cdiv(batch, t["ITEMS"]) * triton.cdiv(queries, t["BLOCK_Q"]) * heads,),
        arguments | outputs | more,
        constants,
        tiles(arguments, sizes, ("ITEMS", "BLOCK_Q", "BLOCK_K")),
        matrix=True,
    )


def biased_cross_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, slope: Tensor | None, packed: Tensor | None
) -> Tensor:
    if not taken(q, k, v):
        return reference(q, k, v, bias, slope, packed).contiguous()
    y = q.new_empty(k.shape[0], q.shape[1], q.shape[2] * q.shape[3])
    if y.numel():
        arguments, constants = common(q, k, v, bias, slope)
        launch(_call(arguments, constants, y=y), q.device)
    return y


def biased_cross_attention_backward(
    grad: Tensor, args: tuple, need: tuple[bool, ...]
) -> tuple[Tensor | None, ...] | None:
    q, k, v, bias, slope, _ = args
    if not taken(q, k, v) or not k.shape[0] or not q.numel():
        return None
    arguments, constants = common(q, k, v, bias, slope)
    grad = grad.contiguous()
    lse, delta = grad.new_empty(2, k.shape[0], q.shape[2], q.shape[1], dtype=torch.float32).unbind()
    launch(_call(arguments, constants, grad=grad, lse=lse, delta=delta), q.device)
    return gradients(arguments | {"grad": grad, "lse": lse, "delta": delta}, constants, args, need)


def specimens() -> Iterator[tuple[str, Callable[..., object], tuple]]:
    """Ends of SFC (1000 frames, 1025 bins, 64 bands)."""

    def end(dtype: torch.dtype, queries: int, keys: int) -> tuple:
        q = torch.empty(1 if queries < keys else 1000, queries, 4, 16, dtype=dtype, device="meta")
        bias = torch.empty(4, queries, keys, device="meta")
        return q, *q.new_empty(1000, keys, 2, 4, 16).unbind(2), bias, bias.new_empty(4), None

    def backward(*args) -> object:
        grad = args[1].new_empty(1000, args[0].shape[1], 4 * args[0].shape[3])
        return biased_cross_attention_backward(grad, args, (True,) * 5 + (False,))

    for dtype in (torch.bfloat16, torch.float32):
        yield f"encoder {str(dtype)[6:]}", biased_cross_attention, end(dtype, 64, 1025)
    yield "decoder bfloat16", biased_cross_attention, end(torch.bfloat16, 1025, 64)
    yield "encoder, backward", backward, end(torch.bfloat16, 64, 1025)
