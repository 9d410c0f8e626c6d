"""`--everything`: each sound that a detector hears in a file becomes a stem. Nothing here needs torch at once."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ussfast.checkpoints.names import CONFIG, DETECTOR, QUERY, Glance, embedded
from ussfast.cli import checks
from ussfast.detect.sounds import MOST_SOUNDS, THRESHOLD, TOP
from ussfast.errors import CheckpointError, InputError, UssfastError
from ussfast.values import number, whole

if TYPE_CHECKING:
    from ussfast.separator import Separator

NO_DETECTOR = (
    "--everything needs a detector, and none comes with ussfast yet: convert a published one ('ussfast convert "
    "Cnn14_DecisionLevelMax_mAP=0.385.pth DIR') and name it with --detector DIR"
)


@dataclass(frozen=True)
class Everything:
    """threshold, top: as for `Separator.find`."""

    threshold: float
    top: int

    @classmethod
    def of(
        cls, wanted: bool, threshold: float | None, top: int | None, others: Mapping[str, Any]
    ) -> "Everything | None":
        """Of the options; InputError for those of the other way to ask."""
        if not wanted:
            for name, value in (("--threshold", threshold), ("--top", top)):
                if value is not None:
                    raise InputError(f"{name} {value:g}: is for --everything only")
            return None
        for name, value in others.items():
            if value:
                raise InputError(f"--everything finds out what there is: leave out {name}, or --everything")
        return cls(
            number(THRESHOLD if threshold is None else threshold, "threshold", 0, 1),
            whole(TOP if top is None else top, "top", 1, MOST_SOUNDS),
        )

    def check(self, of: Glance | None, detector: str | None) -> None:
        """Errors for a model that makes no prompts of clips, and where there is no detector."""
        checks.makes_prompts(of, None if of is not None and of.prompts else detector)
        if detector is not None:
            checks.detector(detector)
        own = of is not None and os.path.isfile(of.directory / QUERY / CONFIG)
        if detector is None and not own and DETECTOR not in embedded():
            raise CheckpointError(NO_DETECTOR)

    def finder(self, separator: "Separator", detector: str | None) -> Callable[[Path], Any]:
        """What finds the sounds of a file; detector: besides that of the separator."""
        from ussfast.detect.detector import Detector

        listener = None if detector is None else Detector(detector, device=str(separator.engine.device))

        def find(path: Path) -> Any:
            try:
                return separator.find(path, threshold=self.threshold, top=self.top, detector=listener)
            except UssfastError as error:
                raise error if str(path) in str(error) else type(error)(f"{path}: {error}") from error

        return find
