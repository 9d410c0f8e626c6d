"""The public engine: a model, prompts, and the policy for long audio."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ussfast.audio import AudioReader, OutputFormat, Written, probe, read, resample, validate
from ussfast.checkpoints import store as checkpoint
from ussfast.checkpoints.info import ModelInfo, describe
from ussfast.engine.engine import Engine
from ussfast.errors import InputError, OutOfMemoryError, PromptError
from ussfast.long_audio.pipeline import Progress, separate_to_files
from ussfast.long_audio.policy import SegmentPolicy, default_policy
from ussfast.long_audio.windows import Batch, separate_blocks
from ussfast.models import SpectralModel, architecture_of, build
from ussfast.prompts.bank import Plan, Prompt, PromptBank, check_prompts, make_plan
from ussfast.prompts.enrolment import can_embed, enroll
from ussfast.separation import Separation, make_folders, output_labels, stem_paths
from ussfast.streaming.separator import LiveSeparator


class Separator(LiveSeparator):
    """Separates audio into named sources.

    Args:
        model: "default" (embedded), a model directory, or "owner/name" on the Hugging Face Hub.
        prompts: what to separate, names in `separator.prompts`; repeats allowed. May be left out here and given to
            `separate`. Models without prompts take none and return all their sources.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "auto" (float32; streams of causal models on the CPU: bfloat16 where it has such products), "float32",
            "bfloat16" ("bf16") or, on the CPU and not for causal models, "int8": of the network's large matrix
            products; see docs/cpu.md, docs/causal.md and docs/gpu.md.
        backend: "auto" or "native" (our kernels where they are built), or "reference" (plain PyTorch).
        segment: window for long audio in seconds; by default what the model was trained on, at least 6 s. Causal
            models carry on from one window to the next: for them it is only a question of memory.
        overlap: shared by neighbouring windows, in seconds; by default 2.1 s, or 0.4 of a short segment.
        stitch: "fade", or "published" for the plain averages of the TUSS and SFC scripts.
        look_ahead: right-hand context of the windows in seconds, the windows of live audio (docs/streaming-windows.md);
            by default as much context on the right as on the left.
        batch: windows that are computed together at most, those of other threads included; by default 8 on a GPU (fewer
            once so many do not fit) and 1 on the CPU. Results do not depend on it but for rounding.
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
    ):
        network, info = checkpoint.load_model(checkpoint.resolve(str(model)))
        self._set_up(network, info, prompts, device, dtype, backend, segment, overlap, stitch, look_ahead, batch)

    @classmethod
    def from_preset(
        cls, name: str, prompts: Sequence[str] | str = (), *, seed: int = 0, **settings: Any
    ) -> "Separator":
        """A published architecture with random weights, for benchmarks.

        Args:
            name: one of ussfast.models.presets.PRESETS, such as "tuss-medium".
            seed: of the weights.
            settings: as for the constructor.
        """
        from ussfast.models.presets import preset

        config = preset(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(config)
        return cls.from_model(network, prompts, name=name, **settings)

    @classmethod
    def from_model(
        cls, network: SpectralModel, prompts: Sequence[str] | str = (), *, name: str = "model", **settings: Any
    ) -> "Separator":
        """Wraps a network that is already in memory; settings as for the constructor."""
        separator = cls.__new__(cls)
        info = describe(network.config, architecture_of(network.config), network.parameter_count(), name)
        defaults: dict[str, Any] = {
            "device": "auto", "dtype": "auto", "backend": "auto", "segment": None, "overlap": None, "stitch": "fade",
            "look_ahead": None, "batch": None,
        }  # fmt: skip
        unknown = sorted(settings.keys() - defaults.keys())
        if unknown:
            raise InputError(f"unknown settings {', '.join(unknown)}; there are {', '.join(defaults)}")
        separator._set_up(network, info, prompts, **(defaults | settings))
        return separator

    def _set_up(
        self,
        network: SpectralModel,
        info: ModelInfo,
        prompts: Sequence[str] | str,
        device: str,
        dtype: str,
        backend: str,
        segment: float | None,
        overlap: float | None,
        stitch: Literal["fade", "published"],
        look_ahead: float | None,
        batch: int | None,
    ) -> None:
        self.info = info
        if prompts:
            check_prompts(prompts, network.prompt_names)
        self.default_prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        self.policy = default_policy(network.config.segment_seconds, segment, overlap, stitch, look_ahead)
        self.engine = Engine(network, device, dtype, backend, batch)
        self.prompts = PromptBank(network)

    @property
    def sample_rate(self) -> int:
        """The rate that the model works at, in Hz; input of any rate is converted."""
        return self.info.sample_rate

    def labels(self, prompts: Sequence[str] | str | None = None) -> tuple[str, ...]:
        """Labels of the stems, in order: prompts with repeats numbered, or the sources of an unconditional model."""
        return self._plan(prompts).labels

    def separate(
        self, audio: Any, sample_rate: int | None = None, *, prompts: Sequence[str] | str | None = None
    ) -> Separation:
        """Separates audio that fits into memory.

        Args:
            audio: a path, or an array or tensor [samples] or [channels, samples]; it is not modified.
            sample_rate: of an array, in Hz; by default the model's. Not for paths, which know theirs.
            prompts: instead of the constructor's.
        Returns:
            stems at the input's rate, length and channel count.
        Raises:
            AudioError, PromptError, InputError; OutOfMemoryError after one retry with a shorter segment.
        """
        if isinstance(audio, (str, Path)):
            if sample_rate is not None:
                raise InputError("sample_rate is for arrays; a file has its own")
            mixture, rate = read(audio)
        else:
            mixture, rate = validate(audio), self.sample_rate if sample_rate is None else sample_rate
        self.engine.check_channels(len(mixture))
        plan = self._plan(prompts)
        native = resample(mixture, rate, self.sample_rate) if rate != self.sample_rate else mixture

        def attempt(policy: SegmentPolicy) -> np.ndarray:
            parts = list(self._separate([native], plan, policy))
            if not parts:  # resampling a handful of samples can leave none
                return np.zeros((len(plan.labels), *native.shape), np.float32)
            return np.concatenate(parts, -1)

        stems = self._with_retry(attempt)
        if rate != self.sample_rate:
            flat = resample(np.concatenate(stems), self.sample_rate, rate, mixture.shape[1])
            stems = flat.reshape(len(plan.labels), *mixture.shape)
        return Separation(plan.labels, stems, rate, np.array(mixture))

    def separate_file(
        self,
        path: str | Path,
        directory: str | Path,
        *,
        prompts: Sequence[str] | str | None = None,
        template: str = "{label}.wav",
        residual: bool = False,
        format: str | OutputFormat | None = None,
        bit_depth: int | None = None,
        skip_existing: bool = False,
        progress: Progress | None = None,
    ) -> Written:
        """Separates a file of any duration into files, with memory that does not depend on the duration.

        Args:
            path: of the input.
            directory: for the outputs; made if it is missing.
            prompts: instead of the constructor's.
            template, residual, format, bit_depth: as for Separation.save; {name} is the input's stem.
            skip_existing: does nothing when all outputs are there already: a stopped batch goes on where it was.
            progress: called with (seconds done, seconds in all or None).
        Returns:
            paths of the outputs, residual last, a list with `seconds`, `sample_rate`, `channels` and `warnings`. The
            files appear complete or not at all.
        """
        path = Path(path)
        plan = self._plan(prompts)
        output = OutputFormat.of(format, bit_depth)
        paths = stem_paths(Path(directory), template, output_labels(plan.labels, residual), path.stem, output)
        if skip_existing and all(p.is_file() for p in paths):
            return Written(paths)
        if any(p.resolve() == path.resolve() for p in paths):
            raise InputError(f"{path}: an output would overwrite the input; choose another directory or template")
        self.engine.check_channels(probe(path).channels)  # a bad input is reported before any folder is made
        make_folders(paths)

        def attempt(policy: SegmentPolicy) -> Written:
            with AudioReader(path) as reader:
                return separate_to_files(
                    reader, self.sample_rate, lambda blocks: self._separate(blocks, plan, policy), paths, residual,
                    output, progress,
                )  # fmt: skip

        return self._with_retry(attempt)

    @property
    def can_enroll(self) -> bool:
        """Whether the model makes prompts from example clips."""
        return can_embed(self.engine.model)

    def enroll(self, name: str, clips: Sequence[Any], sample_rate: int | None = None) -> Prompt:
        """A prompt from example clips of a sound, stored in `prompts` and usable like any other.

        Args:
            name: of the prompt; an enrolled one of that name is replaced.
            clips: paths, or arrays [samples] or [channels, samples], each with the sound and little else; level and
                length do not matter. Several clips are averaged.
            sample_rate: of arrays, in Hz; by default the model's.
        Raises:
            PromptError: the model cannot enroll, or the name is that of a class prompt.
            InputError, AudioError: no clip, a clip that is silent or shorter than 0.1 s, a file that cannot be read.
        """
        if not self.can_enroll:
            raise PromptError(f"model {self.info.name!r} makes no prompts from clips; it knows {list(self.prompts)}")
        prompt = enroll(self.engine.model, self.sample_rate, name, clips, sample_rate)
        self.prompts.add(prompt)
        return prompt

    def _plan(self, prompts: Sequence[str] | str | None = None) -> Plan:
        fixed = bool(getattr(self.engine.model.config, "labels", ()))
        asked = self.default_prompts if prompts is None else prompts
        return make_plan(asked, self.prompts, self.info.labels, fixed)

    def _separate(self, blocks: Iterable[np.ndarray], plan: Plan, policy: SegmentPolicy) -> Iterator[np.ndarray]:
        """Blocks [channels, n] at the model's rate -> [sources, channels, m]."""
        if self.engine.causal is not None and plan.vectors is not None:
            # Equal prompts would be told apart in each channel on its own.
            return self.engine.carry_on(blocks, plan.vectors, policy.segment, shared=bool(plan.groups))

        def run(window: np.ndarray) -> np.ndarray:
            return self.engine.run(window, plan.vectors, len(plan.labels), plan.groups)

        def run_many(windows: list[np.ndarray]) -> list[np.ndarray]:
            return self.engine.run_many(windows, plan.vectors, len(plan.labels), plan.groups)

        batch = Batch(self.engine.batch, run_many) if self.engine.batch > 1 else None
        return separate_blocks(blocks, run, self.sample_rate, policy, plan.groups, batch)

    def _with_retry(self, attempt: Callable[[SegmentPolicy], Any]) -> Any:
        try:
            with self.engine.present():
                return attempt(self.policy)
        except OutOfMemoryError:
            pass  # outside of the handler, so that the failed attempt's tensors are gone
        shorter = self.policy.shorter()
        try:
            with self.engine.present():
                return attempt(shorter)
        except OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"out of memory on {self.engine.device}, also with a segment of {shorter.segment:g} s: "
                "use a shorter segment, fewer prompts or a smaller model"
            ) from error
