"""Inputs of graphs as they will be: real audio, cut into windows, with the model's own prompts."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ussfast.audio import load
from ussfast.errors import InputError
from ussfast.export.graphs import Graph
from ussfast.models import Network, SpectralModel
from ussfast.models.causal import CausalModel
from ussfast.models.detectors import DetectorModel
from ussfast.tuning.bundled import backgrounds

LONGEST, SECONDS, MOST = 60.0, 3.0, 20  # of each file; of a window; windows in all
VECTORS = 3  # prompts where the model knows none of its own


def batches(model: Network, graph: Graph, clips: Sequence[Any] | None = None) -> Iterator[dict[str, Tensor]]:
    """Inputs of a graph that is not a causal model's, one item at a time.

    Args:
        clips: files; the recordings that come with the package if there are none.
    Raises:
        AudioError, InputError: files that cannot be read, or nothing but silence.
    """
    if isinstance(model, CausalModel):
        raise InputError("precision int8 is not for the causal model: use fp16 or bf16")
    rate = model.config.sample_rate
    prompts, given = _prompts(model), 0
    for audio in _recordings(clips, rate):
        for window in audio.mean(0, keepdim=True).split(_samples(graph, rate), 1):
            if window.shape[1] < _samples(graph, rate) or not window.any() or given == MOST:
                continue
            given += 1
            yield from _inputs(model, graph, window, prompts)
    if not given:
        raise InputError(f"calibration needs audio of at least {SECONDS:g} s that is not silent")


def _recordings(clips: Sequence[Any] | None, rate: int) -> Iterator[Tensor]:
    """[channels, samples] each."""
    for clip in clips or ():
        yield torch.from_numpy(load(clip, None, rate)[0][:, : int(LONGEST * rate)].copy())
    if not clips:
        for sound in backgrounds(rate):
            yield torch.from_numpy(sound.audio[None])


def _samples(graph: Graph, rate: int) -> int:
    """Of a window; a detector's graph may have its own."""
    if "audio" in graph.inputs:
        return graph.size(graph.inputs["audio"][-1], samples=int(SECONDS * rate))
    return int(SECONDS * rate)


@torch.no_grad()
def _prompts(model: Network) -> Tensor | None:
    """Each of the model's own once, as pairs; or vectors of its size."""
    if isinstance(model, DetectorModel) or model.prompt_size is None:
        return None
    own = model.prompt_vectors(model.prompt_names) if model.prompt_names else None
    return torch.randn(VECTORS, model.prompt_size, generator=torch.Generator().manual_seed(0)) if own is None else own


@torch.no_grad()
def _inputs(model: Network, graph: Graph, window: Tensor, prompts: Tensor | None) -> Iterator[dict[str, Tensor]]:
    if isinstance(model, SpectralModel) and model.channels > 1:
        window = window.expand(model.channels, -1)[None]
    if "audio" in graph.inputs:
        given = {"audio": window}
    else:
        assert isinstance(model, SpectralModel)
        spec = torch.view_as_real(model.analyze(window)[0])
        given = {"spec": spec[None] if model.channels > 1 else spec}
    if prompts is None:
        yield given
        return
    most = graph.dims["sources"][1]
    for few in prompts.split(min(2, most)):
        yield given | {"prompts": few[None].contiguous()}
