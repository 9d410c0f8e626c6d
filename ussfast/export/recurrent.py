"""Recurrent layers as the operators of ONNX: a tracer would unroll them for one number of frames."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

# Where ONNX has PyTorch's gates: input, forget, cell, output; reset, update, new.
ORDER = {nn.LSTM: (0, 3, 1, 2), nn.GRU: (1, 0, 2)}


@torch.library.custom_op("ussfast_export::recurrent", mutates_args=())
def recurrent(x: Tensor, weight: Tensor, hidden_weight: Tensor, bias: Tensor, operator: str) -> Tensor:
    """ONNX's LSTM or GRU, which only graphs have: it can be traced and not run.

    Args:
        x: [frames, batch, features].
        weight: [directions, gates * hidden, features]. hidden_weight: [directions, gates * hidden, hidden].
        bias: [directions, 2 * gates * hidden].
    Returns:
        [frames, directions, batch, hidden].
    """
    raise NotImplementedError


@recurrent.register_fake
def _(x: Tensor, weight: Tensor, hidden_weight: Tensor, bias: Tensor, operator: str) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], x.shape[1], hidden_weight.shape[2])


def translations() -> dict[Any, Any]:
    """What torch.onnx.export is to make of it."""
    from onnxscript import opset20 as op

    def translated(x: Any, weight: Any, hidden_weight: Any, bias: Any, operator: str) -> Any:
        directions, _, hidden = hidden_weight.shape
        direction = "bidirectional" if directions == 2 else "forward"
        settings: dict[str, Any] = {"hidden_size": int(hidden), "direction": direction}
        if operator == "LSTM":
            return op.LSTM(x, weight, hidden_weight, bias, **settings)[0]
        # PyTorch's reset gate acts on what comes out of the product.
        return op.GRU(x, weight, hidden_weight, bias, linear_before_reset=1, **settings)[0]

    return {torch.ops.ussfast_export.recurrent.default: translated}


class Layers(nn.Module):
    """The layers of an LSTM or GRU, without their states; evaluation only."""

    def __init__(self, rnn: nn.RNNBase):
        super().__init__()
        self.operator, order = ("LSTM", ORDER[nn.LSTM]) if isinstance(rnn, nn.LSTM) else ("GRU", ORDER[nn.GRU])
        self.count = rnn.num_layers
        endings = ("", "_reverse") if rnn.bidirectional else ("",)

        def sorted_gates(name: str) -> Tensor:
            gates = getattr(rnn, name).detach().chunk(len(order))
            return torch.cat([gates[i] for i in order])

        for i in range(rnn.num_layers):
            for name in ("weight_ih", "weight_hh"):
                self.register_buffer(f"{name}_{i}", torch.stack([sorted_gates(f"{name}_l{i}{e}") for e in endings]))
            biases = [torch.cat([sorted_gates(f"bias_{part}_l{i}{e}") for part in ("ih", "hh")]) for e in endings]
            self.register_buffer(f"bias_{i}", torch.stack(biases))

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[batch, frames, features] -> [batch, frames, directions * hidden], and nothing."""
        x = x.transpose(0, 1)
        for i in range(self.count):
            weights = [getattr(self, f"{name}_{i}") for name in ("weight_ih", "weight_hh", "bias")]
            x = recurrent(x, *weights, self.operator).transpose(1, 2).flatten(2)
        return x.transpose(0, 1), ()


def with_layers(network: nn.Module) -> nn.Module:
    """A copy whose recurrent layers can be traced; the network itself if it has none."""
    if not any(isinstance(part, nn.RNNBase) for part in network.modules()):
        return network
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.RNNBase):
                setattr(parent, name, Layers(part))
    return network
