"""The optimiser of a recipe: AdamW, or Muon for hidden matrices with AdamW for the rest, behind one interface."""

from typing import Any

import torch
from torch import nn

from ussfast.errors import CheckpointError
from ussfast.train.muon import Muon
from ussfast.train.recipe import OptimConfig


def matrix_names(model: nn.Module) -> set[str]:
    """Names of the parameters that Muon takes: what `model.matrix_names()` says, or else those of dimension 2 or 3 in
    the blocks of stacks. Prompts, norms, biases and weights per band are no matrices between hidden layers."""
    own = getattr(model, "matrix_names", None)
    if own is not None:
        return set(own())
    return {name for name, p in model.named_parameters() if "blocks" in name.split(".") and p.dim() in (2, 3)}


class Optimizer:
    """All optimisers of a run as if they were one."""

    def __init__(self, model: nn.Module, config: OptimConfig):
        matrices = matrix_names(model) if config.name == "muon" else set()
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        rest = [p for name, p in trained if name not in matrices]
        adamw = torch.optim.AdamW(rest, lr=config.lr, weight_decay=config.weight_decay, eps=1e-8, fused=True)
        self.parts: list[torch.optim.Optimizer] = [adamw]
        if chosen := [p for name, p in trained if name in matrices]:
            self.parts.append(Muon(chosen, lr=config.lr, weight_decay=config.weight_decay))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The form that one PyTorch optimiser with all the groups would have."""
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        for part in self.parts:
            own, first = part.state_dict(), sum(len(group["params"]) for group in groups)
            state |= {first + index: entries for index, entries in own["state"].items()}
            groups += [group | {"params": [first + i for i in group["params"]]} for group in own["param_groups"]]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises CheckpointError if the state is that of another optimiser."""
        sizes = [len(group["params"]) for group in state["param_groups"]]
        if sizes != [len(group["params"]) for group in self.param_groups]:
            raise CheckpointError("the checkpoint is from another optimiser (optim.name) than the recipe's")
        groups, first = list(state["param_groups"]), 0
        for part in self.parts:
            own = [groups.pop(0) for _ in part.param_groups]
            last = first + sum(len(group["params"]) for group in own)
            moments = {index - first: m for index, m in state["state"].items() if first <= index < last}
            shifted = [group | {"params": [i - first for i in group["params"]]} for group in own]
            part.load_state_dict({"state": moments, "param_groups": shifted})
            first = last
