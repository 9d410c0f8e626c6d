"""What a training step differentiates: a batch's mixtures through the model to one loss."""

from torch import Tensor, nn

from ussfast._ext import cpu_isa
from ussfast.errors import InputError
from ussfast.models import SpectralModel
from ussfast.models._packed import kernel_precision
from ussfast.ops import use_reference
from ussfast.ops._op import uses_reference
from ussfast.train.contrast import contrast_loss
from ussfast.train.high_band import HighBand
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
        bfloat16: runs the network's matrix products in bfloat16: by autocast, or in the kernels of models that have
            some for training on the CPU. These stay in float32 on a CPU without bfloat16 products, as they would only
            be slower.
    """

    def __init__(self, model: SpectralModel, loss: LossConfig, bfloat16: bool = False):
        super().__init__()
        self.model, self.loss, self.narrow = model, loss, bfloat16

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss over all sources of the batch, in dB: a scalar."""
        rows = prompt_rows(self.model, batch.prompts)
        queries, asked = getattr(batch, "queries", None), getattr(batch, "asked", None)
        pairs: list[list[int]] = []
        if queries is not None and asked is not None and len(queries):
            pairs = asked.tolist()
            at = asked.to(rows.device, non_blocking=True)
            rows = rows.index_put((at[:, 0], at[:, 1]), self._embedded(queries).to(rows.dtype))
        # The plain PyTorch path is differentiable without recomputation, and fused by the compiler; models whose ops
        # have kernels for training run on these.
        native = getattr(self.model, "native_training", False) and not uses_reference()
        on_kernels = native and batch.mixture.device.type == "cpu"
        on_bfloat16 = on_kernels and self.narrow and cpu_isa() == "avx512_bf16"
        with use_reference(not native), kernel_precision(self.model, "bfloat16" if on_bfloat16 else "float32"):
            estimates = self.model.separate(batch.mixture, rows, autocast=self.narrow and not on_kernels)
        mixture = batch.mixture if self.loss.silence == "mixture" else None
        high = self._high(estimates, batch) if self.loss.high_weight else None
        values = prompt_loss(
            estimates, batch.references, batch.prompts, pairs, mixture, self.loss.snr_max, self.loss.zero_weight, high
        )
        total = values.mean()
        clips = getattr(batch, "pairs", None)
        if clips is not None and self.loss.pairs_weight:
            total = total + self.loss.pairs_weight * contrast_loss(self._embedded(clips))
        return total

    def _embedded(self, clips: Tensor) -> Tensor:
        embed = getattr(self.model, "embed", None)
        if embed is None:
            raise InputError("the mixing asks by example, but this model cannot embed examples")
        return embed(clips)

    def _high(self, estimates: Tensor, batch: Batch) -> HighBand:
        rate, loss = self.model.config.sample_rate, self.loss
        return HighBand.of(estimates, batch.references, batch.mixture, loss.high_hz, rate, loss.high_weight)
