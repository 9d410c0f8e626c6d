"""What is traced, in fewer and plainer operators: contractions of two tensors as products of matrices, which runtimes
have in every precision and multiply fastest, and no casts that change nothing."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class AsProducts(TorchFunctionMode):
    """Inside, torch.einsum of two tensors is permutations around one torch.matmul, and casts that change nothing are
    left out: the tracer would write down two nodes for each, and every pass behind it takes as much longer."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.einsum and len(args) == 3:
            return contract(*args)
        if func is Tensor.float and args[0].dtype == torch.float32:
            return args[0]
        if func is Tensor.to and len(args) == 2 and not kwargs and args[0].dtype == args[1]:
            return args[0]
        return func(*args, **(kwargs or {}))


def contract(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """`torch.einsum` for two tensors, each letter once in each."""
    terms, out = equation.replace(" ", "").split("->")
    left, right = terms.split(",")
    shared = [x for x in out if x in left and x in right]
    rows, columns = [x for x in out if x not in right], [x for x in out if x not in left]
    inner = [x for x in left if x not in out]
    assert set(inner) == set(right) - set(out), equation
    size = {**dict(zip(left, a.shape, strict=True)), **dict(zip(right, b.shape, strict=True))}
    x = a.permute([left.index(i) for i in shared + rows + inner])
    y = b.permute([right.index(i) for i in shared + inner + columns])
    head = [size[i] for i in shared]
    many, deep, wide = (math.prod(size[i] for i in group) for group in (rows, inner, columns))
    product = x.reshape([*head, many, deep]) @ y.reshape([*head, deep, wide])
    product = product.reshape([size[i] for i in shared + rows + columns])
    order = shared + rows + columns
    return product.permute([order.index(i) for i in out])
