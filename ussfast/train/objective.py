"""What a training step differentiates: a batch's mixtures through the model to one loss."""

from torch import Tensor, nn

from ussfast.errors import InputError
from ussfast.models import SpectralModel
from ussfast.ops import use_reference
from ussfast.train.losses import prompt_loss
from ussfast.train.mixing import Batch
from ussfast.train.recipe import LossConfig


def prompt_rows(model: SpectralModel, prompts: list[tuple[str, ...]]) -> Tensor:
    """[batch, sources, dim] class prompts, one row of names per item, each of the same length."""
    rows = model.prompt_vectors(tuple(name for names in prompts for name in names))
    if rows is None:
        raise InputError("only models with prompts can be trained so far")
    return rows.unflatten(0, (len(prompts), -1))


class Objective(nn.Module):
    """The loss of a batch as a module, so that several processes can share its gradients.

    Args:
        autocast: runs the network's matrix products in bfloat16.
    """

    def __init__(self, model: SpectralModel, loss: LossConfig, autocast: bool = False):
        super().__init__()
        self.model, self.loss, self.autocast = model, loss, autocast

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss over all sources of the batch, in dB: a scalar."""
        rows = prompt_rows(self.model, batch.prompts)
        queries, asked = getattr(batch, "queries", None), getattr(batch, "asked", None)
        pairs: list[list[int]] = []
        if queries is not None and asked is not None and len(queries):
            embed = getattr(self.model, "embed", None)
            if embed is None:
                raise InputError("the mixing asks by example, but this model cannot embed examples")
            pairs = asked.tolist()
            at = asked.to(rows.device, non_blocking=True)
            rows = rows.index_put((at[:, 0], at[:, 1]), embed(queries).to(rows.dtype))
        # The plain PyTorch path is differentiable without recomputation, and fused by the compiler; models whose ops
        # have kernels for training run on these.
        with use_reference(not getattr(self.model, "native_training", False)):
            estimates = self.model.separate(batch.mixture, rows, autocast=self.autocast)
        mixture = batch.mixture if self.loss.silence == "mixture" else None
        values = prompt_loss(
            estimates, batch.references, batch.prompts, pairs, mixture, self.loss.snr_max, self.loss.zero_weight
        )
        return values.mean()
