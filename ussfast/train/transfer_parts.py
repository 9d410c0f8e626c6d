"""Which weights of a model learn: all, those behind its trunk, the masks alone, or low-rank additions to the trunk."""

from typing import Literal

from torch import Tensor, nn

from ussfast.errors import InputError
from ussfast.models import SpectralModel, architecture_of
from ussfast.train.low_rank import add_low_rank, low_rank_names

Part = Literal["whole", "head", "mask", "lora"]

# Names of modules and parameters, by how they begin. head: what is behind the trunk, prompts too; mask: the layer that
# makes masks, of a model that has other heads beside it; trunk: whose matrices "lora" adds to, where it can.
HEADS: dict[str, dict[str, tuple[str, ...]]] = {
    "causal": {
        "head": (
            "prompts",
            "repeats",
            "prompt_norm",
            "modulation.",
            "prompt_units.",
            "by_band",
            "trunk_norm",
            "head.",
            "decoder.",
        ),
        "lora": ("blocks.",),
    },
    "tuss": {"head": ("prompts", "decoder."), "lora": ("cross_prompt.", "extraction.")},
    "bslocoformer": {"head": ("decoder.",), "lora": ("first.", "second.")},
    "tflocoformer": {"head": ("deconv.",), "lora": ("stack.",)},
    "asp_unet": {"head": ("after.", "out.")},
    "chimera": {"head": ("mask.", "embedding."), "mask": ("mask.",)},
}


def choose(model: SpectralModel, part: Part) -> None:
    """Lets this part of the model learn, and nothing else; "lora" adds to the model, see `low_rank`.

    New prompts learn with "lora", too: no matrix of the trunk could stand for them.

    Raises:
        InputError: the model has no such part.
    """
    if part == "whole":
        return
    names = of_part(model, part)
    if part == "lora":
        learned = set(add_low_rank(model, low_rank_names(model, names)))
        learned |= {"prompts"} & {name for name, _ in model.named_parameters()}
    else:
        learned = {name for name, _ in model.named_parameters() if name.startswith(names)}
    for name, weight in model.named_parameters():
        weight.requires_grad_(weight.requires_grad and name in learned)


def of_part(model: SpectralModel, part: Part) -> tuple[str, ...]:
    """How the names of a part's weights begin; InputError where there is none."""
    kind = architecture_of(model.config)
    there = HEADS.get(kind, {})
    names = there.get(part, ())
    if not any(name.startswith(names) for name, _ in model.named_parameters() if names):
        others = [o for o, own in there.items() if any(n.startswith(own) for n, _ in model.named_parameters())]
        known = ", ".join(("whole", *others))
        raise InputError(f"a model of architecture {kind} has no part '{part}'; it can train {known}")
    return names


def still(model: nn.Module, part: Part) -> None:
    """Training mode, but what does not learn stays as it is: statistics of norms over batches, and nothing is dropped
    out of layers whose weights are fixed."""
    model.train()
    if part == "whole":
        return
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        statistics = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if statistics or (own and not any(weight.requires_grad for weight in own)):
            module.training = False


def learning(model: nn.Module) -> int:
    """How many numbers learn."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def grown(weights: dict[str, Tensor], fresh: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """`fresh` with the values of `weights` of the same name and shape, and the names of those that have none."""
    alike = {name for name, value in fresh.items() if name in weights and weights[name].shape == value.shape}
    return {name: weights[name] if name in alike else value for name, value in fresh.items()}, sorted(
        fresh.keys() - alike
    )
