"""Which graphs a model is exported as: their functions, names, shapes and bounds."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ussfast import stft
from ussfast.errors import InputError
from ussfast.export.networks import Detects, Estimates, Frames, Hop, Prompts, Waveforms, as_tensors, state_names
from ussfast.models import Network, SpectralModel
from ussfast.models.causal import CausalModel
from ussfast.models.detectors import DetectorModel
from ussfast.models.detectors.cnn14 import Cnn14

MODES = ("offline", "step")
CHUNK = 256  # frames of a causal model's graph at most: what is longer follows in another call
EXAMPLE = {"batch": 2, "sources": 3, "frames": 9}
Size = int | str


@dataclass(frozen=True)
class Limits:
    """What a graph takes at most.

    seconds: of audio at once; causal models carry on from call to call.
    prompts: at once. batch: items at once.
    """

    seconds: float = 30.0
    prompts: int = 8
    batch: int = 4

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 3600:
            raise InputError(f"max-seconds must be from 0.1 to 3600, got {self.seconds:g}")
        for name, value, most in (("max-prompts", self.prompts, 64), ("batch", self.batch, 1024)):
            if not 1 <= value <= most:
                raise InputError(f"{name} must be from 1 to {most}, got {value}")


@dataclass(frozen=True)
class Graph:
    """One graph.

    inputs, outputs: shapes by name, of numbers and of names in `dims`; all float32.
    dims: least and most of each name. steps: of what a dimension is a multiple.
    state: input and output of each tensor that is carried on.
    """

    name: str
    network: nn.Module
    inputs: dict[str, tuple[Size, ...]]
    outputs: dict[str, tuple[Size, ...]]
    dims: dict[str, tuple[int, int]]
    state: tuple[tuple[str, str], ...] = ()
    steps: dict[str, int] = field(default_factory=dict)

    def size(self, name: Size, **sizes: int) -> int:
        if isinstance(name, int):
            return name
        least, most = self.dims[name]
        step = self.steps.get(name, 1)
        wanted = sizes.get(name, EXAMPLE.get(name, most // 2))
        return max(least, min(most, -(-wanted // step) * step))

    def example(self, seed: int = 0, **sizes: int) -> dict[str, Tensor]:
        """Random inputs; sizes: of dimensions by name."""
        rng = torch.Generator().manual_seed(seed)
        states = {before for before, _ in self.state}
        made = {}
        for name, shape in self.inputs.items():
            tensor = torch.randn([self.size(dim, **sizes) for dim in shape], generator=rng)
            # Levels are logarithms over silence; what is remembered, and audio, seldom are larger than 1.
            small = name in states or name == "audio"
            made[name] = tensor.abs() if name == "level" else tensor * 0.3 if small else tensor
        return made


def graphs_of(model: Network, mode: str, limits: Limits, with_stft: bool = False) -> list[Graph]:
    """The graphs of a model.

    Args:
        mode: "offline", or "step" for causal models: hop by hop, with transforms inside.
        with_stft: audio goes in and comes out, offline too.
    Raises:
        InputError: a mode that there is not, or that the model has not.
    """
    if mode not in MODES:
        raise InputError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if isinstance(model, DetectorModel):
        if mode == "step":
            raise InputError("detectors have no mode step: use offline")
        return [_detects(model, limits)]
    if isinstance(model, CausalModel):
        if with_stft and mode == "offline":
            raise InputError("the causal model's graph with transforms is that of mode step: leave --with-stft out")
        return [_prompts(model, limits), _hop(model, limits) if mode == "step" else _frames(model, limits)]
    if mode == "step":
        raise InputError("only causal models have a mode step: use offline")
    if not model.recordable:
        raise InputError("this model's masks are those of clusters, which no graph finds: only masks can be exported")
    return [_separates(model, limits, with_stft)]


def _separates(model: SpectralModel, limits: Limits, with_stft: bool) -> Graph:
    config, channels = model.config.stft, () if model.channels == 1 else (model.channels,)
    hops = max(1, round(limits.seconds * model.config.sample_rate / config.hop))
    dims, steps = {"batch": (1, limits.batch)}, {}
    sources: Size = "sources" if model.prompt_size else model.config.sources
    shape: tuple[Size, ...]
    if with_stft:
        least = max(2, -(-(config.n_fft // 2 + 1) // config.hop))
        dims["samples"] = least * config.hop, max(hops, least) * config.hop
        steps["samples"], shape = config.hop, ("samples",)
    else:
        dims["frames"], shape = (1, stft.frame_count(hops * config.hop, config)), ("frames", config.bins, 2)
    name, out = ("audio", "out") if with_stft else ("spec", "masks" if model.masking else "spectra")
    inputs: dict[str, tuple[Size, ...]] = {name: ("batch", *channels, *shape)}
    if model.prompt_size:
        dims["sources"] = 1, limits.prompts
        inputs["prompts"] = "batch", "sources", model.prompt_size
    outputs = {out: ("batch", sources, *channels, *shape)}
    network = Waveforms(model) if with_stft else Estimates(model)
    return Graph("model", network, inputs, outputs, dims, steps=steps)


def _prompts(model: CausalModel, limits: Limits) -> Graph:
    row = "batch", "sources", 1, len(model.config.bands), model.config.dim
    dims = {"batch": (1, limits.batch), "sources": (1, limits.prompts)}
    inputs: dict[str, tuple[Size, ...]] = {"prompts": ("batch", "sources", model.config.dim)}
    return Graph("prompts", Prompts(model), inputs, {"scale": row, "shift": row}, dims)


def _asked(model: CausalModel) -> dict[str, tuple[Size, ...]]:
    row = "batch", "sources", 1, len(model.config.bands), model.config.dim
    return {"scale": row, "shift": row}


def _state(model: CausalModel) -> dict[str, tuple[Size, ...]]:
    tensors = as_tensors(model.initial_state(1))
    return {name: ("batch", *t.shape[1:]) for name, t in zip(state_names(model), tensors, strict=True)}


def _after(state: dict[str, Any]) -> dict[str, Any]:
    return {f"next_{name}": shape for name, shape in state.items()}


def _frames(model: CausalModel, limits: Limits) -> Graph:
    config, state = model.config.stft, _state(model)
    hops = round(limits.seconds * model.config.sample_rate / config.hop)
    frames = max(2, min(CHUNK, hops))
    dims = {"batch": (1, limits.batch), "frames": (1, frames), "sources": (1, limits.prompts)}
    inputs = {"spec": ("batch", "frames", config.bins, 2), **_asked(model), **state}
    outputs = {"masks": ("batch", "sources", "frames", config.bins, 2), **_after(state)}
    return Graph("model", Frames(model), inputs, outputs, dims, tuple(zip(state, _after(state), strict=True)))


def _hop(model: CausalModel, limits: Limits) -> Graph:
    hop = model.config.stft.hop
    state = {"context": ("batch", hop), "overlap": ("batch", "sources", hop), **_state(model)}
    dims = {"batch": (1, limits.batch), "sources": (1, limits.prompts)}
    inputs = {"audio": ("batch", hop), **_asked(model), **state}
    outputs = {"out": ("batch", "sources", hop), **_after(state)}
    return Graph("step", Hop(model), inputs, outputs, dims, tuple(zip(state, _after(state), strict=True)))


def _detects(model: DetectorModel, limits: Limits) -> Graph:
    """Cnn14 takes clips of any length; HTS-AT makes them one length, so that its graph has that one."""
    config: Any = model.config
    rate, labels, hop = config.sample_rate, len(config.labels), config.front.hop
    dims, steps = {"batch": (1, limits.batch)}, {}
    samples: Size
    if isinstance(model, Cnn14):
        least = -(-max(model.least_samples, config.front.n_fft // 2 + 1) // hop)
        dims["samples"] = least * hop, max(least + 1, round(limits.seconds * rate / hop)) * hop
        steps["samples"], samples = hop, "samples"
        dims["frames"] = dims["samples"][0] // hop + 1, dims["samples"][1] // hop + 1
        has_frames = config.pooling != "clip"
    else:
        samples, has_frames = round(config.segment_seconds * rate), True
    outputs: dict[str, tuple[Size, ...]] = {"tags": ("batch", labels)}
    if has_frames:
        outputs["frames"] = "batch", "frames" if samples == "samples" else config.front.frame_count(samples), labels
    outputs["embedding"] = "batch", model.embedding_dim
    if not has_frames:
        dims.pop("frames", None)
    return Graph("model", Detects(model), {"audio": ("batch", samples)}, outputs, dims, steps=steps)
