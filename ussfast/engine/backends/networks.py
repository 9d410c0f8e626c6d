"""Exported models as the networks that they were: whatever uses a model can use these."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ussfast.checkpoints import store
from ussfast.checkpoints.exported import Exported, GraphFile, is_exported, prompts_of, read_exported
from ussfast.checkpoints.info import ModelInfo, describe
from ussfast.engine.backends import EXPORTED, Runner
from ussfast.engine.settings import Settings, pick_device
from ussfast.errors import CheckpointError, DeviceError, InputError, PromptError
from ussfast.models import ARCHITECTURES, SpectralModel, config_from_dict
from ussfast.models.causal import CausalModel, Modulation, TrunkState


def load(model: str, settings: Settings) -> tuple[SpectralModel, ModelInfo]:
    """A model for these settings: one of ours, or an exported one where the backend, or the directory, says so.

    Raises:
        CheckpointError: no such model, or one of the other kind. DeviceError: settings that an export cannot have.
    """
    directory = store.resolve(model)
    exported = is_exported(directory)
    if settings.backend in EXPORTED and not exported:
        raise CheckpointError(
            f"backend {settings.backend!r} runs exported models, and {model} is none: 'python -m ussfast.export "
            f"{model} --{settings.backend} -o DIR', then give DIR"
        )
    if not exported:
        return store.load_model(directory)
    if settings.backend not in ("auto", *EXPORTED):
        raise CheckpointError(f"{model}: an exported model, which backend {settings.backend!r} cannot run: use auto")
    return open_exported(directory, settings)


def open_exported(directory: Path, settings: Settings) -> tuple[SpectralModel, ModelInfo]:
    """See `load`."""
    about = read_exported(directory)
    if settings.dtype != "auto":
        raise DeviceError(f"dtype must be auto: exported models have theirs in the graph, this one {about.precision}")
    backend = settings.backend if settings.backend in EXPORTED else about.kind
    if "model" not in about.graphs:
        raise CheckpointError(f"{directory}: has no graph for mode offline, which separators need: export it with that")
    device = pick_device("cpu" if settings.device == "auto" and backend != "trt" else settings.device)
    if about.architecture not in ARCHITECTURES:
        raise CheckpointError(f"{directory}: a detector, which separates nothing")
    config = config_from_dict(about.architecture, about.config)
    vectors = {name: torch.tensor(vector) for name, vector in prompts_of(directory).items()}
    network = exported_network(runner(backend, directory, device), about, config, vectors)
    network.backend, network.device = backend, device
    info = describe(config, about.architecture, about.parameters, about.name)
    return network, replace(info, path=directory, fingerprint=about.fingerprint)


def runner(backend: str, directory: Path, device: torch.device) -> Runner:
    """What runs the graphs; raises what that raises."""
    if backend == "onnx":
        from ussfast.engine.backends.onnx import OnnxRunner

        return OnnxRunner(directory, device)
    if backend == "trt":
        from ussfast.engine.backends.trt import TrtRunner

        return TrtRunner(directory, device)
    from ussfast.engine.backends.aoti import AotiRunner

    return AotiRunner(directory, device)


def check_learns(model: SpectralModel, name: str) -> None:
    """PromptError for a model through which no gradients go."""
    if isinstance(model, Exportedly):
        raise PromptError(
            f"{name!r} cannot be tuned by an exported model: tune it with the model that was exported, save it in a "
            "bank, and load that (load_prompts, --bank)"
        )


class Exportedly(SpectralModel):
    """What exported models have in common: no weights here, class prompts from a file, graphs in a runner."""

    backend: str
    device: torch.device

    def _set_up(self, runner: Runner, about: Exported, config: Any, vectors: dict[str, Tensor], like: Any) -> None:
        nn.Module.__init__(self)
        self.config, self.about, self._runner, self._vectors = config, about, runner, vectors
        self.prompt_names = tuple(getattr(config, "prompts", ()))
        if missing := [name for name in self.prompt_names if name not in vectors]:
            raise CheckpointError(f"the export has no vectors of {missing}: export the model again")
        self.graph: GraphFile = about.graph("model")
        self.prompt_size = like

    def prompt_vectors(self, names: tuple[str, ...]) -> Any:
        if not self.prompt_names:
            return None
        unknown = [name for name in names if name not in self._vectors]
        if unknown or not names:
            raise PromptError(f"unknown prompts {unknown}; the model knows {list(self.prompt_names)}")
        return torch.stack([self._vectors[name] for name in names])

    def most(self, name: str) -> int:
        """Of a dimension, that the graph takes."""
        return self.graph.dims[name][1]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def _check_prompts(self, prompts: Tensor) -> None:
        if prompts.shape[-2] > self.most("sources"):
            raise PromptError(
                f"this export takes {self.most('sources')} prompts at once, not {prompts.shape[-2]}: export it with "
                "more (--max-prompts)"
            )


class ExportedModel(Exportedly):
    """A model that is not causal."""

    def __init__(self, runner: Runner, about: Exported, config: Any, vectors: dict[str, Tensor]):
        sizes = [p.shape[-1] for p in about.graph("model").inputs if p.name == "prompts"]
        self._set_up(runner, about, config, vectors, sizes[0] if sizes else None)
        if any(port.name == "audio" for port in self.graph.inputs):
            raise CheckpointError("separators do transforms themselves: export the model without --with-stft")
        self.channels = getattr(config, "channels", 1)
        self.masking = any(port.name == "masks" for port in self.graph.outputs)
        self.equal_prompts = _equal_prompts(about.architecture, config)

    def forward(self, spec: Tensor, prompts: Tensor | None) -> Tensor:
        """See `SpectralModel.forward`; a batch beyond what the graph takes goes through in parts."""
        frames, most = spec.shape[-2], self.most("frames")
        if frames > most:
            seconds = most * self.config.stft.hop / self.config.sample_rate
            raise InputError(
                f"this export takes {seconds:.3g} s at once: use a shorter segment, or export it with --max-seconds"
            )
        rows: list[Tensor] = [torch.view_as_real(spec)]
        if prompts is not None:
            self._check_prompts(prompts)
            rows.append(prompts.float().expand(spec.shape[0], *prompts.shape[-2:]))
        names = [port.name for port in self.graph.inputs]
        parts = zip(*(row.split(self.most("batch")) for row in rows), strict=True)
        out = self.graph.outputs[0].name
        return torch.cat([self._runner.run("model", dict(zip(names, part, strict=True)))[out] for part in parts])


class ExportedCausal(Exportedly, CausalModel):
    """A causal model: frames in, masks out, what it remembers between calls as `CausalModel` has it."""

    embed = None  # type: ignore[assignment]  # clips become prompts by weights that are not in the export

    def __init__(self, runner: Runner, about: Exported, config: Any, vectors: dict[str, Tensor]):
        self._set_up(runner, about, config, vectors, config.dim)
        self.equal_prompts = config.repeats
        self._step = about.graph("step") if "step" in about.graphs else None

    def condition(self, prompts: Tensor) -> Modulation:
        rows = (prompts if prompts.dim() == 3 else prompts[None]).float()
        self._check_prompts(rows)
        same = (rows[:, :, None] == rows[:, None]).all(-1).tril(-1).sum(-1)
        if (worst := int(same.max()) + 1) > self.config.repeats:
            raise PromptError(f"{worst} prompts are equal, the model tells at most {self.config.repeats} apart")
        parts = [self._runner.run("prompts", {"prompts": part}) for part in rows.split(self.most("batch"))]
        scale, shift = (torch.cat([part[name] for part in parts]) for name in ("scale", "shift"))
        return Modulation(scale, shift, torch.full((rows.shape[0],), rows.shape[1], device=rows.device))

    def initial_state(self, batch: int) -> TrunkState:
        level, features, *rest = (
            torch.zeros(batch, *[int(size) for size in port.shape[1:]], device=self.device)
            for port in self.graph.inputs
            if port.name in {before for before, _ in self.graph.state}
        )
        return _trunk_state(level, features, rest)

    def advance(self, spec: Tensor, modulation: Modulation, state: TrunkState) -> tuple[Tensor, TrunkState]:
        items, most = spec.shape[0], self.most("batch")
        asked = [part.expand(items, *part.shape[1:]) for part in (modulation.scale, modulation.shift)]
        tensors = [torch.view_as_real(spec), *asked, state.level[:, None], state.features]
        tensors += [tensor for block in state.blocks for tensor in block]
        parts = [self._frames(part) for part in zip(*(tensor.split(most) for tensor in tensors), strict=True)]
        masks, level, features, *rest = (torch.cat(found) for found in zip(*parts, strict=True))
        return masks, _trunk_state(level, features, rest)

    def hop_at_once(
        self, audio: Tensor, context: Tensor, overlap: Tensor, modulation: Modulation, frames: TrunkState
    ) -> tuple[Tensor, Tensor, Tensor, TrunkState] | None:
        """By the graph `step`, if there is one; channels that share masks go through `advance`."""
        rows, asked = len(audio), (modulation.scale, modulation.shift)
        if self._step is None or rows != frames.items:
            return None
        tensors = [audio, *(part.expand(rows, *part.shape[1:]) for part in asked), context, overlap]
        tensors += [frames.level[:, None], frames.features, *(tensor for block in frames.blocks for tensor in block)]
        names, parts = [port.name for port in self._step.inputs], []
        for part in zip(*(tensor.split(self._step.dims["batch"][1]) for tensor in tensors), strict=True):
            found = self._runner.run("step", dict(zip(names, part, strict=True)))
            parts.append([found[port.name] for port in self._step.outputs])
        out, context, overlap, level, features, *rest = (torch.cat(found) for found in zip(*parts, strict=True))
        return out, context, overlap, _trunk_state(level, features, rest)

    def _frames(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """All frames of a few items, as many at once as the graph takes."""
        spec, scale, shift, *state = tensors
        masks = []
        for part in spec.split(self.most("frames"), 1):
            given = dict(zip([p.name for p in self.graph.inputs], (part, scale, shift, *state), strict=True))
            found = self._runner.run("model", given)
            masks.append(found["masks"])
            state = [found[after] for _, after in self.graph.state]
        return torch.cat(masks, 2), *state


def _trunk_state(level: Tensor, features: Tensor, rest: Sequence[Tensor]) -> TrunkState:
    """Of a graph's tensors, in which levels have a size beside the batch."""
    return TrunkState(level[:, 0], features, tuple(zip(rest[::2], rest[1::2], strict=True)))


def exported_network(runner: Runner, about: Exported, config: Any, vectors: dict[str, Tensor]) -> Exportedly:
    kind = ExportedCausal if about.architecture == "causal" else ExportedModel
    return kind(runner, about, config, vectors)


def _equal_prompts(architecture: str, config: Any) -> int | None:
    """As `SpectralModel.equal_prompts` of the architecture."""
    if architecture == "tuss":
        return None if config.cross_prompt.rope else 1
    return 1 if architecture == "asp_unet" else None
