"""A trained detector becomes the embedded one: weights, card and CHANGELOG.md; see embed.py.

No figures decide: there may be none to compare with. Weights and card together are at most MOST_BYTES.
"""

import dataclasses
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch

from ussfast.checkpoints.info import ModelInfo
from ussfast.checkpoints.names import DETECTOR
from ussfast.checkpoints.store import load_detector, read_info, save_model
from ussfast.errors import InputError
from ussfast.evaluate import detection_report
from ussfast.evaluate.detection import Detection

HOME = Path("ussfast/weights") / DETECTOR
MOST_BYTES = 2_000_000
DEFAULT = Path("ussfast/weights/default")  # whose licence this one has: they are trained on the same audio
CHANGE = "- The embedded detector"
LIMITS = re.compile(r"^## Limits\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
FIRST_LIMITS = """## Limits

- It knows the labels above and nothing else: any other sound is at best the label that is nearest to it.
- The scenes it was measured on are made of single recordings over a background. Real ones are harder.
- Few recordings per label were at hand, to train on and to measure with."""


def write_fresh(root: Path, model: Path, evaluation: dict[str, Any], fresh: Path) -> tuple[str, str]:
    """The model directory that is to be embedded, at `fresh`; what to tell, and CHANGELOG.md with its line.

    Raises:
        InputError: an evaluation of something else; CREDITS.md is missing; too large.
        CheckpointError: not a detector.
    """
    network, info = load_detector(model)
    found = detection_report.from_dict(evaluation)
    found = dataclasses.replace(found, data=Path(found.data).name)  # where it lay is nobody's business
    if found.model not in (info.name, DETECTOR):
        raise InputError(f"the evaluation is of {found.model!r}, not of {info.name!r}")
    if not (model / "CREDITS.md").is_file():
        raise InputError(f"{model}: CREDITS.md is missing: whose audio it was trained on must be told")
    licence = read_info(root / DEFAULT).license
    save_model(fresh, network, name=DETECTOR, license=licence, source=info.source, dtype=torch.float16)
    shutil.copyfile(model / "CREDITS.md", fresh / "CREDITS.md")
    before = root / HOME / "README.md"
    limits = LIMITS.search(before.read_text()) if before.is_file() else None
    weights = (fresh / "model.safetensors").stat().st_size
    text = card(info, found, weights / 1e6, limits[0].strip() if limits else FIRST_LIMITS, licence)
    (fresh / "README.md").write_text(text)
    size = sum(file.stat().st_size for file in fresh.iterdir())
    if size > MOST_BYTES:
        raise InputError(
            f"{model}: is {size / 1e6:.2f} MB in float16, {weights / 1e6:.2f} MB of it weights: an embedded detector "
            f"has at most {MOST_BYTES / 1e6:g} MB"
        )
    return headline(info, found), changelog((root / "CHANGELOG.md").read_text(), headline(info, found))


def headline(info: ModelInfo, found: Detection) -> str:
    """How much it knows, and how well."""
    tags = found.mean_average_precision
    said = "" if tags is None else f", mean average precision {tags:.2f} over {found.classes} of them"
    return (
        f"{len(info.labels)} labels{said}; F-score of segments {100 * found.segment_micro.f:.0f} %, of events "
        f"{100 * found.event_micro.f:.0f} %"
    )


def card(info: ModelInfo, found: Detection, megabytes: float, limits: str, licence: str) -> str:
    """The model card."""
    labels = ", ".join(f"`{name}`" for name in info.labels)
    source = ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in info.source.items())
    parts = (
        f"# The embedded detector\n\nArchitecture `{info.architecture}`, {info.sample_rate / 1000:g} kHz, "
        f"{info.parameters / 1e6:.2f} M parameters, stored in float16 ({megabytes:.1f} MB).\n"
        f"{len(info.labels)} labels: {labels}.",
        f"## How good it is\n\n{headline(info, found)}.\n\n`ussfast evaluate detect`, {detection_report.about(found)} "
        "(docs/detect.md).",
        detection_report.table(found),
        limits,
        f"## How it was made\n\n{source[:1].upper()}{source[1:]}.",
        f"{licence}. CREDITS.md lists all audio; keep it with the weights.",
    )
    return "\n\n".join(parts) + "\n"


def changelog(before: str, said: str) -> str:
    """CHANGELOG.md with a line at the end of its first release, in place of the one that an earlier call left there."""
    head, *releases = re.split(r"(?m)^(?=## )", before)
    if not releases:
        raise InputError("CHANGELOG.md has no release to add a line to")
    kept = [text for text in releases[0].rstrip().split("\n") if not text.startswith(CHANGE)]
    line = f"{CHANGE} (`ussfast detect FILE`): {said}."
    return head + "\n".join([*kept, line]) + "\n" + ("\n" if releases[1:] else "") + "".join(releases[1:])


def fresh_name(path: Path) -> Path:
    return path.with_name(f".fresh-{uuid.uuid4().hex}")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
