"""Muon: momentum whose update is orthogonalised, for weights that act as matrices.

Sources: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024 (the method and the
coefficients); Liu et al., "Muon is scalable for LLM training", 2025 (weight decay, and the scale of the update, with
which learning rates and weight decays of AdamW carry over).
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from ussfast.errors import InputError

# Per iteration s -> a s + b s^3 + c s^5 for every singular value s: fast from small values on, at the price of ending
# anywhere in about 0.7..1.2 instead of at 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, iterations: int = 5, eps: float = 1e-7) -> Tensor:
    """The nearest matrices with equal singular values, roughly: U V^T of the singular value decomposition.

    Args:
        matrices: [..., rows, columns], any scale; not modified.
        iterations: Newton-Schulz steps; with 5, singular values above 1/100 of the Frobenius norm end in 0.7..1.2.
        eps: smallest Frobenius norm that is divided by, so that zeros stay zeros.
    Returns:
        [..., rows, columns], dtype of the input; bfloat16 inside on CUDA, float32 elsewhere.
    """
    wide = matrices.shape[-2] < matrices.shape[-1]
    # The Gram matrix of the shorter side is the smaller one.
    x = matrices if wide else matrices.mT
    x = x.float() / torch.linalg.matrix_norm(x.float(), keepdim=True).clamp(min=eps)
    x = x.bfloat16() if x.is_cuda else x
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.mT).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    Weights of equal shape are orthogonalised in one batch. A weight [out, in, kernel] of a convolution counts as the
    matrix [out, in * kernel].

    Args:
        params: parameters of dimension 2 or 3 (or groups of them, as for every optimiser of PyTorch).
        lr: as for AdamW: updates have the root mean square that AdamW's typically have, 0.2 lr.
        weight_decay: share of lr by which weights shrink per step.
        momentum: decay of the running mean of gradients.
        iterations: of `orthogonalize`.
    Raises:
        InputError: a parameter of another dimension.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        iterations: int = 5,
    ):
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "iterations": iterations}
        super().__init__(params, defaults)
        shapes = [list(p.shape) for group in self.param_groups for p in group["params"]]
        if wrong := [shape for shape in shapes if len(shape) not in (2, 3)]:
            raise InputError(f"Muon takes parameters of dimension 2 or 3, got shapes {wrong}")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update from the gradients that are there; parameters without one are left alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            same: dict[tuple[Any, ...], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    same.setdefault((p.shape, p.dtype, p.device), []).append(p)
            for params in same.values():
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Moves parameters of one shape."""
        grads = [p.grad for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, buffers, group["momentum"])
        matrices = torch.stack(list(ahead)).flatten(2)  # [parameters, rows, columns]
        rows, columns = matrices.shape[1:]
        update = orthogonalize(matrices, group["iterations"]).view(len(params), *params[0].shape)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(update.unbind()), alpha=-group["lr"] * 0.2 * max(rows, columns) ** 0.5)
