"""Recipes of models that learn from mixtures alone: Self-Remixing and RemixIT."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ussfast.errors import InputError
from ussfast.long_audio.permutation import PairLoss
from ussfast.models import DETECTORS, architecture_of
from ussfast.models.config import Seconds, Sources
from ussfast.plain import Checked, Range, Share, from_dict
from ussfast.train.recipe import Count, Plain, RunRecipe, Weight, common, read_recipe
from ussfast.train.remix_losses import MultiResolutionPairs, SnrPairs

Method = Literal["self-remixing", "remixit"]
WEIGHTS = {"self-remixing": (0.0, 1.0), "remixit": (1.0, 0.0)}  # of the losses of RemixIT and of Self-Remixing
MOST_OUTPUTS = 8  # of a model that is warmed up by MixIT, which tries 2^outputs ways


@dataclass(frozen=True)
class TeacherConfig(Checked):
    """How the teacher follows the student: teacher = a teacher + (1 - a) student.

    update: "epoch": a = weight every `epoch_steps` steps; "step": a = weight^(1 / epoch_steps) after every step;
        "copy": the student's weights after every step; "never": the teacher stays as it is.
    """

    update: Literal["step", "epoch", "copy", "never"] = "step"
    weight: Share = 0.8
    epoch_steps: Count = 1000


@dataclass(frozen=True)
class WarmupConfig(Checked):
    """How the student begins, before the teacher takes its weights.

    by: "mixit", mixture invariant training on sums of two mixtures, or "none": teacher and student are different from
        the start (or are the models that the run was given).
    steps: of the run that are the warm-up.
    """

    by: Literal["none", "mixit"] = "none"
    steps: Annotated[int, Range(0, 1e12)] = 0


@dataclass(frozen=True)
class RemixConfig(Checked):
    """How a batch is drawn, remixed and compared.

    method: sets the weights of the losses: of mixtures that are mixed back ("self-remixing"), or of estimates against
        the teacher's ("remixit"). remixit_weight, mixed_weight: in place of the method's.
    seconds: of a crop; silent ones are not taken. batch: crops in one, an even number.
    sources: that are remixed: of more outputs the loudest; none for all of the model's.
    loss: "snr", or "mrl1", which adds L1 of waveforms and of magnitudes at three resolutions; log: of log magnitudes.
    snr_max, threshold, only_denominator: see `ussfast.train.remix_losses.SnrPairs`.
    teacher_consistency, student_consistency: whether estimates are made to sum to their mixture.
    constrained: no two sources of a pseudo mixture are from the same mixture.
    channel_shuffle: sources are dealt to the slots at random before that; keep_last: but for the last one.
    """

    method: Method = "self-remixing"
    remixit_weight: Weight | None = None
    mixed_weight: Weight | None = None
    seconds: Seconds = 3.0
    batch: Annotated[int, Range(2, 1e5)] = 8
    sources: Sources | None = None
    loss: Literal["snr", "mrl1"] = "snr"
    log: bool = False
    snr_max: Annotated[float, Range(-200, 200)] = 30.0
    threshold: Literal["reference", "mixture"] = "reference"
    only_denominator: bool = False
    teacher_consistency: bool = True
    student_consistency: bool = False
    constrained: bool = True
    channel_shuffle: bool = True
    keep_last: bool = False
    teacher: TeacherConfig = TeacherConfig()
    warmup: WarmupConfig = WarmupConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch % 2:
            raise InputError(f"remix.batch must be even, got {self.batch}")
        if not any(self.weights):
            raise InputError("remix.remixit_weight and remix.mixed_weight must not both be 0")
        if self.log and self.loss != "mrl1":
            raise InputError("remix.log is for the loss mrl1: leave it out, or set loss to mrl1")
        if (self.warmup.by == "none") != (self.warmup.steps == 0):
            raise InputError("remix.warmup needs both: by: mixit, and steps of 1 or more; or neither")

    @property
    def weights(self) -> tuple[float, float]:
        """Of the losses of RemixIT and of Self-Remixing."""
        own, given = WEIGHTS[self.method], (self.remixit_weight, self.mixed_weight)
        return tuple(w if g is None else g for w, g in zip(own, given, strict=True))  # type: ignore[return-value]

    def pairs(self) -> PairLoss:
        snr = SnrPairs(self.snr_max, self.threshold, self.only_denominator)
        return snr if self.loss == "snr" else MultiResolutionPairs(snr, self.log)


@dataclass(frozen=True, kw_only=True)
class RemixRecipe(RunRecipe):
    """Of a model without prompts that learns from mixtures alone."""

    remix: RemixConfig = RemixConfig()

    @property
    def sources(self) -> int:
        """That are remixed."""
        outputs = int(self.model.sources)
        return min(self.remix.sources or outputs, outputs)


def remix_from_dict(data: Plain) -> RemixRecipe:
    """A recipe from its plain form; errors as for `recipe_from_dict`."""
    entries = common(data, RemixRecipe, "remix")
    recipe = RemixRecipe(**entries, remix=from_dict(RemixConfig, data.get("remix", {}), "remix"))
    check(recipe)
    return recipe


def check(recipe: RemixRecipe) -> None:
    """InputError for a model that cannot learn so."""
    model, remix = recipe.model, recipe.remix
    kind = architecture_of(model)
    outputs = getattr(model, "sources", None)
    if kind in DETECTORS or not isinstance(outputs, int):
        raise InputError(f"'ussfast train remix' trains models without prompts, such as bslocoformer, not {kind}")
    if outputs < 2 or recipe.sources < 2:
        raise InputError(f"recipe {recipe.name}: there must be two sources at least to remix, got {recipe.sources}")
    if getattr(model, "channels", 1) > 1:
        raise InputError(f"recipe {recipe.name}: only models of one channel are trained so, got {model.channels}")
    if remix.sources is not None and remix.sources > outputs:
        raise InputError(f"remix.sources is {remix.sources}, but the model has {outputs} outputs only")
    if remix.warmup.by == "mixit" and outputs > MOST_OUTPUTS:
        raise InputError(f"remix.warmup by mixit is for models of {MOST_OUTPUTS} outputs at most, got {outputs}")


def load_remix_recipe(source: str | Path) -> RemixRecipe:
    """From a YAML file, or one that comes with the package, by name."""
    return remix_from_dict(read_recipe(source))
