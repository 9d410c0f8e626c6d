"""Recipes of training on stems: of a fresh model, of its embedding, or of a model that there is."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ussfast.errors import InputError
from ussfast.models import ARCHITECTURES, architecture_of
from ussfast.plain import Checked, Range, Share, from_dict
from ussfast.train.recipe import Plain, RunRecipe, common, read_recipe

Augment = Literal["none", "pitch", "stretch", "incoherent", "all"]
Loss = Literal["snr", "l1", "chimera", "deep_clustering"]
Permutation = Literal["auto", "fixed", "bin", "utterance"]
OF_HEADS = ("chimera", "deep_clustering")  # losses of a model's heads, not of what it separates


@dataclass(frozen=True)
class StemMixConfig(Checked):
    """How mixtures of stems are drawn.

    augment: "none"; "pitch": every mixture is moved by up to `semitones`, up or down; "stretch": and lasts `stretch`
        times as long; "incoherent": every stem is from a piece and a place of its own; "all": half of the mixtures
        each, and every stem up to `gain_db` louder or quieter.
    Of models with prompts alone:
    most: stems that are mixed at once. background: share of mixtures that have effects or ambience beside the stems,
        which come with the package. absent: share of batches that ask for something else, too, which is not there.
    keep: mixtures beside those of a batch for which what the untouched model gives for its own prompts is the target,
        so that they are not forgotten; 0 for none.
    """

    seconds: Annotated[float, Range(0.05, 3600)] = 3.0
    batch: Annotated[int, Range(1, 1e5)] = 8
    augment: Augment = "none"
    semitones: Annotated[float, Range(0, 24)] = 3.0
    stretch: Annotated[tuple[Annotated[float, Range(0.25, 4)], ...], Range(2, 2)] = (0.8, 1.2)
    gain_db: Annotated[float, Range(0, 60)] = 6.0
    most: Annotated[int, Range(1, 256)] = 4
    background: Share = 0.5
    absent: Share = 0.3
    keep: Annotated[int, Range(0, 1e5)] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stretch[0] > self.stretch[1]:
            raise InputError(f"stretch needs the shorter one first, got {list(self.stretch)}")


@dataclass(frozen=True)
class ObjectiveConfig(Checked):
    """loss: "snr": negative SNR in dB of waveforms, see `LossConfig`; "l1": their mean absolute error; "chimera": alpha
        times deep clustering plus 1 - alpha times the error of magnitudes, of a model with both heads;
        "deep_clustering": of its embedding alone.
    permutation: of the sources that come out: "fixed", their order is that of the labels; "utterance", the best one
        counts; "bin", the best one of every bin of the spectrum (magnitudes alone); "auto": fixed where there are
        labels, else utterance.
    magnitudes: "l1" or "mse".
    """

    loss: Loss = "snr"
    alpha: Share = 0.01
    permutation: Permutation = "auto"
    magnitudes: Literal["l1", "mse"] = "l1"
    snr_max: Annotated[float, Range(-200, 200)] = 30.0


@dataclass(frozen=True, kw_only=True)
class TransferRecipe(RunRecipe):
    """Of a model that learns from stems."""

    stems: StemMixConfig = StemMixConfig()
    objective: ObjectiveConfig = ObjectiveConfig()

    def checked(self) -> "TransferRecipe":
        """This one; InputError where model and loss do not fit together."""
        loss, kind = self.objective.loss, architecture_of(self.model)
        if loss in OF_HEADS and kind != "chimera":
            raise InputError(f"objective.loss {loss} is of the heads of a chimera: of a {kind} it can be snr or l1")
        if loss in OF_HEADS and not self.model.embedding:
            raise InputError(f"objective.loss {loss} needs an embedding, and the model has none: set model.embedding")
        if loss != "deep_clustering" and kind == "chimera" and not self.model.masks:
            raise InputError(f"objective.loss {loss} needs masks, and the model has none: set model.masks")
        if self.objective.permutation == "bin" and loss != "chimera":
            raise InputError("objective.permutation bin is of loss chimera")
        return self

    def changed(self, part: Literal["optim", "run", "stems", "objective"], **values: object) -> "TransferRecipe":
        """With other values in one of its tables."""
        return dataclasses.replace(self, **{part: dataclasses.replace(getattr(self, part), **values)})


def transfer_from_dict(data: Plain) -> TransferRecipe:
    """From its plain form; errors as for `recipe_from_dict`."""
    entries = common(data, TransferRecipe, "transfer")
    if architecture_of(entries["model"]) not in ARCHITECTURES:
        raise InputError("'ussfast train transfer' trains models that separate, not detectors")
    return TransferRecipe(
        **entries,
        stems=from_dict(StemMixConfig, data.get("stems", {}), "stems"),
        objective=from_dict(ObjectiveConfig, data.get("objective", {}), "objective"),
    )


def load_transfer_recipe(source: str | Path) -> TransferRecipe:
    """From a YAML file, or one that comes with the package, by name."""
    return transfer_from_dict(read_recipe(source))
