"""The public engine: a model, prompts, and the policy for long audio."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch

from ussfast.audio import OutputFormat, Written, given_file, is_file, known_rate, load
from ussfast.audio.naming import stem_paths
from ussfast.checkpoints.info import ModelInfo, describe
from ussfast.detect.detector import Detector
from ussfast.engine.backends.networks import load as load_network
from ussfast.engine.engine import Engine
from ussfast.engine.moving import moved, reduced
from ussfast.engine.recordings import separate_recording, separate_whole
from ussfast.engine.settings import Settings
from ussfast.errors import InputError
from ussfast.everything import Finding
from ussfast.long_audio.pipeline import Progress
from ussfast.long_audio.policy import SegmentPolicy
from ussfast.models import SpectralModel, architecture_of
from ussfast.models.presets import random_model
from ussfast.prompts.bank import Plan, PromptBank, as_names, check_prompts, make_plan
from ussfast.prompts.names import check_repeats
from ussfast.separation import Separation, choose, output_labels
from ussfast.streaming import opening as live
from ussfast.streaming.pool import SessionPool
from ussfast.streaming.session import Session


class Separator(Finding):
    """Separates audio into named sources.

    Args:
        model: "default" (embedded), a model directory, "owner/name" on the Hugging Face Hub, or a directory of
            `python -m ussfast.export`.
        prompts: what to separate, names in `separator.prompts`; repeats allowed. May be left out here and given to
            `separate`. Models without prompts take none and return all their sources.
        detector: for a model whose prompts are vectors: what makes these of clips, see `enroll`. A Detector, or a model
            as above. By default the folder "query" of the model's directory, if there is one.
        device and all that follow: see `ussfast.engine.settings.Settings`.
    Raises:
        CheckpointError, PromptError, DeviceError, InputError (all of them UssfastErrors and ValueErrors).
    """

    def __init__(
        self,
        model: str | Path = "default",
        prompts: Sequence[str] | str = (),
        *,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
        segment: float | None = None,
        overlap: float | None = None,
        stitch: Literal["fade", "published"] = "fade",
        look_ahead: float | None = None,
        batch: int | None = None,
        max_attenuation: float | None = None,
        sum_to_mixture: bool = False,
        channels: Literal["linked", "independent"] = "independent",
        detector: str | Path | Detector | None = None,
    ):
        settings = Settings(
            device, dtype, backend, segment, overlap, stitch, look_ahead, batch, max_attenuation, sum_to_mixture,
            channels,
        )  # fmt: skip
        network, info = load_network(str(model), settings)
        self._set_up(network, info, prompts, settings, detector)

    @classmethod
    def from_preset(cls, name: str, prompts: Sequence[str] | str = (), *, seed: int = 0, **settings: Any) -> Self:
        """A published architecture with random weights, for benchmarks.

        Args:
            name: one of ussfast.models.presets.PRESETS, such as "tuss-medium".
            seed: of the weights.
            settings: as for the constructor, `detector` too.
        """
        return cls.from_model(random_model(name, seed), prompts, name=name, **settings)

    @classmethod
    def from_model(
        cls,
        network: SpectralModel,
        prompts: Sequence[str] | str = (),
        *,
        name: str = "model",
        detector: str | Path | Detector | None = None,
        **settings: Any,
    ) -> Self:
        """Wraps a network that is already in memory; settings as for the constructor."""
        if not isinstance(network, SpectralModel):
            raise InputError(f"a Separator is made of a model that separates, got a {type(network).__name__}")
        info = describe(network.config, architecture_of(network.config), network.parameter_count(), name)
        separator = cls.__new__(cls)
        separator._set_up(network, info, prompts, Settings.of(settings), detector)
        return separator

    def to(self, device: str | torch.device) -> "Separator":
        """The same model, settings and prompts, also those that were enrolled, on another device.

        This separator and its streams stay as they are and where they are. Either has weights and prompts of its own:
        what is enrolled from now on is known to one of them.

        Args:
            device: as for the constructor; where the separator is on it already, it is returned itself.
        Raises:
            DeviceError: this machine does not have the device, or the device not the separator's dtype.
            OutOfMemoryError: the model does not fit there.
        """
        return moved(self, str(device))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies have the same model, settings, policy and prompts, those that were enrolled too."""
        return reduced(self)

    def __repr__(self) -> str:
        asked = ", ".join(self.default_prompts or self.info.labels)
        form = f"{self.sample_rate} Hz on {self.engine.device}"
        return f"Separator({'; '.join(part for part in (self.info.name, asked, form) if part)})"

    def _set_up(
        self,
        network: SpectralModel,
        info: ModelInfo,
        prompts: Sequence[str] | str,
        chosen: Settings,
        detector: str | Path | Detector | None = None,
    ) -> None:
        self.info, self.settings = info, chosen
        self.default_prompts = as_names(prompts)
        if self.default_prompts:
            vectors = network.prompt_size is not None
            known = check_prompts(self.default_prompts, network.prompt_names, vectors)
            check_repeats(known, network.equal_prompts)
        self._find_detector(network, detector)
        self.engine = Engine(network, chosen)
        self.prompts = PromptBank(network)

    @property
    def policy(self) -> SegmentPolicy:
        """How audio is cut for models that are not causal."""
        return self.engine.policy

    @policy.setter
    def policy(self, policy: SegmentPolicy) -> None:
        self.engine.policy = policy

    @property
    def sample_rate(self) -> int:
        """The rate that the model works at, in Hz; input of any rate is converted."""
        return self.info.sample_rate

    def labels(self, prompts: Sequence[str] | str | Plan | None = None) -> tuple[str, ...]:
        """Labels of the stems, in order: prompts with repeats numbered, or the sources of an unconditional model."""
        return self._plan(prompts).labels

    def separate(
        self, audio: Any, sample_rate: int | None = None, *, prompts: Sequence[str] | str | Plan | None = None
    ) -> Separation:
        """Separates audio that fits into memory.

        Args:
            audio: a path, an open binary file, or an array or tensor [samples] or [channels, samples]; not modified.
            sample_rate: of an array, in Hz: needed, and any will do. Not for files, which know theirs.
            prompts: instead of the constructor's; or what `find` found.
        Returns:
            stems at the input's rate, length and channel count.
        Raises:
            AudioError, PromptError, InputError; OutOfMemoryError after one retry with a shorter segment.
        """
        if is_file(audio) and sample_rate is not None:
            raise InputError("sample_rate is for arrays; a file has its own")
        mixture, rate = load(audio, sample_rate, self.sample_rate)
        plan = self._plan(prompts)
        stems = separate_whole(self.engine, mixture, rate, plan)
        return Separation(plan.labels, stems, rate, np.array(mixture))

    def separate_file(
        self,
        path: Any,
        directory: str | Path,
        *,
        prompts: Sequence[str] | str | Plan | None = None,
        template: str = "{label}.wav",
        residual: bool = False,
        format: str | OutputFormat | None = None,
        bit_depth: int | None = None,
        skip_existing: bool = False,
        progress: Progress | None = None,
        stems: Sequence[str] | None = None,
        name: str | None = None,
    ) -> Written:
        """Separates a file of any duration into files, with memory that does not depend on the duration.

        Args:
            path: of the input, or a file opened in binary mode.
            directory: for the outputs; made if it is missing.
            prompts: as for `separate`.
            template, residual, format, bit_depth: as for Separation.save; {suffix} is the input's, without its dot.
            skip_existing: does nothing when all outputs are there, and a record beside them says that they were made of
                this input by this model with these prompts and settings: a stopped batch goes on where it was.
            progress: called with (seconds done, seconds in all or None); what it raises stops the work.
            stems: labels of those that are written, the residual also; by default all. All prompts are still asked for.
            name: what {name} stands for; by default the input's name without its suffix, "audio" where it has none.
        Returns:
            paths of the outputs, residual last, a list with `seconds`, `sample_rate`, `channels` and `warnings`. The
            files appear complete or not at all.
        """
        path = given_file(path)
        plan = self._plan(prompts)
        output = OutputFormat.of(format, bit_depth)
        keep, residual = choose(plan.labels, residual, stems)
        written, stem = output_labels([plan.labels[i] for i in keep], residual), path.stem if name is None else name
        paths = stem_paths(Path(directory), template, written, stem, output, path.suffix[1:])
        return separate_recording(self.engine, path, plan, paths, written, output, keep, progress, skip_existing)

    def stream(self, chunks: Iterable[Any], sample_rate: int | None = None, **settings: Any) -> Iterator[Separation]:
        """Separates a live stream.

        Args:
            chunks: arrays [samples] or [channels, samples] of any length, also empty.
            sample_rate: of the chunks, in Hz; it cannot be left out.
            settings: as for `session`.
        Yields:
            pieces in order and without gaps, as soon as they are complete; as many samples in all as went in.
        """
        # Here, so that what is wrong with the settings shows at once, not in the loop.
        return self.session(sample_rate, **settings).pieces(chunks)

    def session(
        self,
        sample_rate: int | None = None,
        *,
        prompts: Sequence[str] | str | None = None,
        channels: int | None = None,
        latency: float | None = None,
        max_prompts: int | None = None,
        on_bad: Literal["silence", "raise"] = "silence",
        threads: int = 1,
    ) -> Session:
        """A live stream to push chunks into.

        Args:
            sample_rate: of the chunks, in Hz; it cannot be left out.
            prompts: instead of the constructor's; `Session.set_prompts` changes them.
            channels: of the chunks; by default those of the first one.
            latency: in seconds, for models that are not causal: the trade with quality and cost, see
                docs/streaming-windows.md. By default the separator's windows, as for files. A causal model has its own.
            max_prompts: that the stream may ever have at once; at least 4, and as many as it begins with.
            on_bad: "silence" replaces chunks with samples that are not finite by silence and warns; "raise" refuses.
            threads: of the CPU, as many as it has cores at most.
        Raises:
            PromptError, InputError.
        """
        rate = known_rate(sample_rate, self.sample_rate)
        return live.open_session(
            self.engine, self._plan, rate, prompts, channels, latency, max_prompts, on_bad, threads, self
        )

    def pool(
        self,
        size: int,
        sample_rate: int | None = None,
        *,
        channels: int = 1,
        max_prompts: int = 4,
        on_bad: Literal["silence", "raise"] = "silence",
        threads: int = 1,
    ) -> SessionPool:
        """Many streams through a causal model, computed together.

        Args:
            size: streams that there may be at once.
            sample_rate, channels, max_prompts, on_bad, threads: of all streams, as for `session`.
        Raises:
            InputError: no rate, a number below 1, or a model that is not causal.
        """
        rate = known_rate(sample_rate, self.sample_rate)
        return live.open_pool(self.engine, self._plan, size, rate, channels, max_prompts, on_bad, threads, self)

    def _plan(self, prompts: Sequence[str] | str | Plan | None = None) -> Plan:
        if isinstance(prompts, Plan):
            return self._own_plan(prompts)
        fixed = bool(getattr(self.engine.model.config, "labels", ()))
        asked = self.default_prompts if prompts is None else prompts
        return make_plan(asked, self.prompts, self.info.labels, fixed)
