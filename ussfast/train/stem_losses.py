"""What a step of training on stems differentiates: mixtures through a model without class prompts."""

from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from ussfast import stft
from ussfast.long_audio.permutation import best_permutation
from ussfast.models import SpectralModel
from ussfast.ops import use_reference
from ussfast.train.losses import prompt_loss
from ussfast.train.stem_mixing import Stems
from ussfast.train.transfer_recipe import OF_HEADS, ObjectiveConfig

if TYPE_CHECKING:
    from ussfast.models.chimera import Chimera


class StemObjective(nn.Module):
    """The loss of a batch as a module, so that several processes can share its gradients.

    Args:
        fixed: whether the model's sources have an order.
    """

    def __init__(self, model: SpectralModel, config: ObjectiveConfig, fixed: bool, bfloat16: bool = False):
        super().__init__()
        self.model, self.config, self.narrow = model, config, bfloat16
        self.permutation: Literal["fixed", "bin", "utterance"] = "fixed" if fixed else "utterance"
        if config.permutation != "auto":
            self.permutation = config.permutation

    def forward(self, batch: Stems) -> Tensor:
        """The mean over the batch, a scalar."""
        if self.config.loss in OF_HEADS:
            return self._of_heads(batch)
        with use_reference():  # differentiable without recomputation
            estimates = self.model.separate(batch.mixture, batch.rows, autocast=self.narrow)
        return waveform_loss(estimates, batch, self.config, self.permutation == "fixed")

    def _of_heads(self, batch: Stems) -> Tensor:
        from ussfast.train.chimera_losses import deep_clustering, ideal_binary_mask, magnitude_loss, magnitude_weights

        model, config = cast("Chimera", self.model), self.config
        magnitude, references = magnitudes(model, batch)
        with torch.autocast(magnitude.device.type, torch.bfloat16, enabled=self.narrow):
            embedding, mask = model.heads(magnitude)
        assert embedding is not None  # the recipe was checked
        with torch.no_grad():
            assignment, weights = ideal_binary_mask(references), magnitude_weights(magnitude)
        clustered = deep_clustering(embedding.float(), assignment, weights)
        if config.loss == "deep_clustering" or mask is None:
            return clustered
        estimates = mask.float() * magnitude[..., None]
        masked = magnitude_loss(estimates, references, config.magnitudes, self.permutation)
        return config.alpha * clustered + (1 - config.alpha) * masked


def magnitudes(model: "Chimera", batch: Stems) -> tuple[Tensor, Tensor]:
    """Of the mixture [batch, frames, bins] and of its sources [batch, frames, bins, sources], at one level."""
    with torch.no_grad():
        spec, scale = model.analyze(batch.mixture)
        sources = batch.references if scale is None else batch.references / scale[:, None, None]
        each = stft.drop_frame(stft.analyze(sources.flatten(0, 1), model.config.stft), model.config.stft)
        own = each.unflatten(0, sources.shape[:2]).permute(0, 2, 3, 1)
        return model.magnitude(spec), model.magnitude(own)


def waveform_loss(estimates: Tensor, batch: Stems, config: ObjectiveConfig, fixed: bool) -> Tensor:
    """The mean over all sources, of `snr` or `l1`; each source against its own reference, or in the best order."""
    references, sources = batch.references, batch.references.shape[1]
    if config.loss == "snr":
        names = tuple(str(i if fixed else 0) for i in range(sources))
        return prompt_loss(estimates, references, [names] * len(references), (), batch.mixture, config.snr_max).mean()
    if fixed:
        return (estimates - references).abs().mean()
    pairs = torch.stack([(estimates - references[:, j, None]).abs().mean(-1) for j in range(sources)], -1)
    return best_permutation(pairs)[0].mean()


@torch.no_grad()
def clustering_fit(model: "Chimera", batch: Stems) -> list[float]:
    """1 less the loss of deep clustering, of each item: 1 where the embedding tells all bins apart as it should."""
    from ussfast.train.chimera_losses import deep_clustering, ideal_binary_mask, magnitude_weights

    magnitude, references = magnitudes(model, batch)
    embedding = model.heads(magnitude).embedding
    assert embedding is not None
    assignment, weights = ideal_binary_mask(references), magnitude_weights(magnitude)
    parts = zip(embedding.split(1), assignment.split(1), weights.split(1), strict=True)
    return [1 - float(deep_clustering(*part)) for part in parts]
