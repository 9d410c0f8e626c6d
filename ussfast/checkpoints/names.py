"""Models by name: which directory is meant, and what its config.json says at a glance. Nothing here needs torch."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from ussfast.checkpoints import hub
from ussfast.errors import CheckpointError
from ussfast.plain import read_json, shown

FORMAT, VERSION = "ussfast-model", 1
MOST_SOURCES = 256
CONFIG, WEIGHTS = "config.json", "model.safetensors"
DETECTOR = "detector"  # the embedded model that says what there is, where it comes with the package
QUERY = "query"  # a folder of a model that takes vectors: the detector that makes them
EMBEDDED = Path(__file__).parents[1] / "weights"
# As long as the Hub's own may be; no branch is called more than that.
HUB_NAME = re.compile(r"(?=[^@]{3,96}(@|$))(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]{1,200}))?")
# How names of presets begin: only for these is it worth importing torch to tell a preset from a mistake.
PRESET_FAMILIES = ("asp-", "chimera", "conventional-", "sfc-", "tflocoformer-", "tuss-")
# Architectures that separate nothing.
DETECTORS = ("cnn14", "htsat")
NO_DETECTOR = (
    "this installation has no embedded detector: convert a published one ('ussfast convert "
    "Cnn14_DecisionLevelMax_mAP=0.385.pth DIR') and give its directory (--model DIR)"
)

EXPECTED = (
    "'default', a directory with config.json and model.safetensors, or owner/name (owner/name@revision) of a model on "
    "the Hugging Face Hub"
)


@dataclasses.dataclass(frozen=True)
class Glance:
    """What config.json says of a model, not strictly read: enough to check what is asked of it.

    Attributes:
        name: as it was asked for.
        directory: of the model.
        causal: whether it carries on from block to block, without windows.
        prompts: its prompts' names; empty for an unconditional model.
        labels: names of an unconditional model's sources; else empty. Without either, its prompts are vectors.
        segment_seconds: what it was trained on.
        equal_prompts: that a causal model tells apart; None where only the model knows.
    """

    name: str
    directory: Path
    causal: bool
    prompts: tuple[str, ...]
    labels: tuple[str, ...]
    segment_seconds: float
    equal_prompts: int | None


def glance(directory: Path, name: str) -> Glance | None:
    """The Glance of a model directory; None if it is not one of ours, or a detector: reading it strictly says so."""
    try:
        data: dict[str, Any] = read_json(directory / CONFIG)
        if (data["format"], data["version"]) != (FORMAT, VERSION) or data["architecture"] in DETECTORS:
            return None
        config = data["config"]
        prompts = tuple(map(str, config.get("prompts", ())))
        count = min(config.get("sources", 0), MOST_SOURCES)
        labels = tuple(map(str, config.get("labels") or (f"source-{i + 1}" for i in range(count))))
        seconds = float(config["segment_seconds"])
        causal, equal = data["architecture"] == "causal", config.get("repeats")
        return Glance(name, directory, causal, prompts, () if prompts else labels, seconds, equal and int(equal))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def embedded() -> dict[str, Path]:
    """The models that come with this installation: their directories by name."""
    return {path.parent.name: path.parent for path in sorted(EMBEDDED.glob(f"*/{CONFIG}"))}


def usual_detector() -> str:
    """The name of the embedded detector; CheckpointError where there is none."""
    if DETECTOR not in embedded():
        raise CheckpointError(NO_DETECTOR)
    return DETECTOR


def another_detector() -> str:
    """What to take where a detector is wanted."""
    return f"the embedded detector is {DETECTOR!r}" if DETECTOR in embedded() else NO_DETECTOR


def resolve(name: str | os.PathLike[str]) -> Path:
    """The model directory for a name; EXPECTED lists what names there are. Only names on the Hub may download.

    Raises:
        CheckpointError: there is no such model, or the Hub has none of that name or does not let us read it.
        UssfastError: the Hub cannot be reached.
    """
    # Questions to the system are asked through os.path, which takes what can be no path for one that is not there.
    text = os.fspath(name)
    if os.path.isfile(EMBEDDED / text / CONFIG) and Path(text).name == text:
        return EMBEDDED / text
    if text == "default":
        raise CheckpointError("this installation has no embedded weights: give a directory or a Hugging Face model")
    path = Path(os.path.expanduser(text))
    if text and os.path.isdir(path):
        return path
    if text == DETECTOR:
        raise CheckpointError(NO_DETECTOR)
    if os.path.isfile(path):
        hint = f": run 'ussfast convert {path} DESTINATION' first" if path.suffix in (".pth", ".ckpt", ".pt") else ""
        raise CheckpointError(f"{path}: a file, not a model directory{hint}")
    if isinstance(name, str) and (parts := HUB_NAME.fullmatch(text)):
        own = (CONFIG, WEIGHTS)
        return hub.download(parts["repo"], parts["revision"], (*own, *(f"{QUERY}/{file}" for file in own)))
    if is_preset(text):
        raise CheckpointError(f"{text!r} is a preset without weights: use Separator.from_preset({text!r})")
    raise CheckpointError(f"no model {shown(text, 200)}; a model is {EXPECTED}")


def is_preset(name: str) -> bool:
    """Whether an architecture without weights has this name."""
    if not name.startswith(PRESET_FAMILIES):
        return False
    from ussfast.models.presets import PRESETS

    return name in PRESETS
