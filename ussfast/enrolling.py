"""What a separator does with prompts of its users: made of clips, kept in files, taken from them."""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ussfast.checkpoints.info import ModelInfo, fingerprint_of
from ussfast.detect.describing import QueryDetector, beside
from ussfast.detect.detector import Detector
from ussfast.engine.engine import Engine
from ussfast.errors import PromptError, PromptWarning
from ussfast.models import SpectralModel
from ussfast.prompts.bank import Prompt, PromptBank, as_names
from ussfast.prompts.bank_file import Saved, find, read_saved, save
from ussfast.prompts.enrolment import Source, can_embed, enroll, own_source
from ussfast.prompts.origin import Average, Mark

if TYPE_CHECKING:
    from ussfast.tuning.prompts import TuneStep


class Enrolling:
    """The part of a `Separator` that has to do with prompts."""

    info: ModelInfo
    engine: Engine
    prompts: PromptBank
    _detector: QueryDetector | None

    def _find_detector(self, model: SpectralModel, given: str | Path | Detector | None) -> None:
        """The one that is given, or that the model's directory carries."""
        found = beside(self.info.path) if given is None and not can_embed(model) else given
        self._detector = None if found is None else QueryDetector(found, model, self.info)

    @property
    def can_enroll(self) -> bool:
        """Whether prompts can be made of example clips: by the model, or by its detector."""
        return self._detector is not None or can_embed(self.engine.model)

    def enroll(
        self, name: str, clips: Iterable[Any], sample_rate: int | None = None, *, average: Average | None = None
    ) -> Prompt:
        """A prompt from example clips of a sound, stored in `prompts` and usable like any other.

        Args:
            name: of the prompt; an enrolled one of that name is replaced.
            clips: each as `audio` of `separate`, of any duration, with the sound and little else; level does not
                matter. The loudest 10 s of each are kept with the prompt, as Ogg Vorbis.
            sample_rate: of arrays among the clips, in Hz; needed if there are any.
            average: of several clips: "mean", or "robust", which leaves out clips unlike the others; by default
                `ussfast.prompts.origin.AVERAGE`.
        Raises:
            PromptError: the model cannot enroll, or the name is that of a class prompt or cannot be a file's.
            InputError, AudioError: no clip, an array without a rate, a clip that is silent or shorter than 0.1 s, a
                file that cannot be read.
        Warns:
            PromptWarning: three clips or more that have little in common.
        Source: with a detector, Chen et al., "Zero-shot Audio Source Separation through Query-based Learning from
            Weakly-labeled Data", AAAI 2022: the mean over segments of 2 s that are loud enough.
        """
        prompt = self.prompt_of(name, clips, sample_rate, average=average)
        self.prompts.add(prompt)
        agreement = None if prompt.origin is None else prompt.origin.agreement
        if agreement is not None and agreement.advice is not None:
            warnings.warn(f"{name!r}: {agreement.advice}", PromptWarning, 2)
        return prompt

    def prompt_of(
        self, name: str, clips: Iterable[Any], sample_rate: int | None = None, *, average: Average | None = None
    ) -> Prompt:
        """The prompt that `enroll` makes, which is stored nowhere; arguments and errors are the same, nothing warns."""
        if self.can_enroll:  # before a detector is loaded
            self.prompts.check_name(name)
        return enroll(self._source(), name, clips, sample_rate, average, self.engine.device)

    def tune(
        self,
        name: str,
        clips: Iterable[Any],
        backgrounds: Iterable[Any] | None = None,
        sample_rate: int | None = None,
        start: str | Prompt = "enrolled",
        *,
        steps: int | None = None,
        minutes: float | None = None,
        on_step: "Callable[[TuneStep], None] | None" = None,
        **settings: Any,
    ) -> Prompt:
        """A prompt that learns from example clips of a sound, stored in `prompts`; the model stays as it is.

        Args:
            name: of the prompt; one of that name that is no class prompt is replaced.
            clips: as for `enroll`, of at least 0.1 s.
            backgrounds: sounds that it is to be told from, as clips; by default two minutes of effects and ambience
                that come with the package, and the clips of other prompts in `prompts`.
            sample_rate: of arrays among them, in Hz.
            start: "enrolled", the name of a prompt, or a Prompt: what it begins with.
            steps, minutes: that it takes at most; where neither is given, `STEPS` of `ussfast.tuning.config`.
            on_step: called after every step.
            settings: see `ussfast.tuning.config.TuneConfig`.
        Returns:
            the tuned prompt, or that which it began with where held-out clips speak against the tuned one, by more than
                chance explains; `kind` and `origin.tuning` say.
        Raises:
            PromptError: the model takes no prompts, or cannot enroll and `start` names none; names as for `enroll`.
            InputError, AudioError: as for `enroll`, and wrong settings.
            KeyboardInterrupt: after the best prompt so far was stored.
        Source: Liu et al., "Audio prompt tuning for universal sound separation", ICASSP 2024.
        """
        from ussfast.tuning.prompts import tune_prompt

        given = {"steps": steps, "minutes": minutes} | settings
        chosen = {key: value for key, value in given.items() if value is not None}
        return tune_prompt(self, name, clips, backgrounds, sample_rate, start, on_step, chosen)

    def _source(self) -> Source:
        model = self.engine.model
        if can_embed(model):
            return own_source(model)
        if self._detector is not None:
            return self._detector.source(self.engine.device)
        if model.prompt_size is not None and not model.prompt_names:
            raise PromptError(
                f"model {self.info.name!r} needs a detector to make prompts of clips: Separator(..., detector=MODEL), "
                f"one with embeddings of {model.prompt_size} numbers"
            )
        raise PromptError(f"model {self.info.name!r} makes no prompts from clips; it knows {list(self.prompts)}")

    @property
    def mark(self) -> Mark:
        """Name and fingerprint of the model, as prompt banks have them."""
        return Mark(self.info.name, fingerprint_of(self.info, self.engine.model.state_dict()))

    def save_prompts(
        self, path: str | os.PathLike[str], names: Sequence[str] | str | None = None, *, clips: bool = True
    ) -> None:
        """Writes enrolled prompts into a prompt bank (safetensors), which appears complete or not at all.

        Args:
            path: of the file; one that is there is replaced.
            names: of the prompts; by default all that were enrolled. Class prompts come with their model.
            clips: whether the bank keeps the clips, so that `ussfast prompts refresh` can embed them for another model.
        Raises:
            PromptError: no enrolled prompts, an unknown name or that of a class prompt.
            InputError: more than a bank holds. OutputError: it could not be written.
        """
        chosen = [p for p in self.prompts.values() if p.kind != "class"]
        if names is not None:
            chosen = [self.prompts[name] for name in dict.fromkeys(as_names(names))]
        if taken := [prompt.name for prompt in chosen if prompt.kind == "class"]:
            raise PromptError(f"{taken[0]!r} is a class prompt: it comes with the model and is not saved")
        if not chosen:
            raise PromptError("there are no enrolled prompts to save")
        save(path, self.mark, [saved(prompt, clips) for prompt in chosen])

    def load_prompts(
        self, path: str | os.PathLike[str], names: Sequence[str] | str | None = None
    ) -> tuple[Prompt, ...]:
        """Adds prompts of a prompt bank, or none of them.

        Args:
            names: of those that are wanted; by default all. Enrolled prompts of the same names are replaced.
        Raises:
            PromptError: the bank is another model's or detector's, does not have a name, or has that of a class prompt.
            CheckpointError: no prompt bank, a damaged one, or one that a later ussfast wrote.
        """
        info, bank = read_saved(path)
        if info.model.fingerprint != self.mark.fingerprint:
            raise PromptError(
                f"{info.path}: its prompts are those of model {info.model}, not of {self.mark}: {REFRESH}"
            )
        wanted = bank
        if names is not None:
            wanted = [find(info, bank, name) for name in dict.fromkeys(as_names(names))]
        own = None if self._detector is None else self._detector.mark
        for one in wanted:
            theirs = None if one.origin is None else one.origin.detector
            if own is not None and theirs is not None and theirs.fingerprint != own.fingerprint:
                raise PromptError(
                    f"{info.path}: the vector of {one.name!r} is that of detector {theirs}, not of {own}: {REFRESH}"
                )
        device = self.engine.device
        made = [Prompt(s.name, torch.from_numpy(s.vector.copy()).to(device), s.kind, s.origin) for s in wanted]
        for prompt in made:
            try:
                self.prompts.check(prompt)
            except PromptError as error:
                raise PromptError(f"{info.path}: {error} ('ussfast prompts rename')") from None
        for prompt in made:
            self.prompts.add(prompt)
        return tuple(made)


REFRESH = "'ussfast prompts refresh' makes one for this model of the clips that the bank keeps"


def saved(prompt: Prompt, clips: bool = True) -> Saved:
    """As a bank has it."""
    origin, kind = prompt.origin, prompt.kind
    assert kind != "class"
    if origin is not None and not clips:
        origin = replace(origin, clips=())
    return Saved(prompt.name, prompt.vector.detach().float().cpu().numpy(), origin, kind)
