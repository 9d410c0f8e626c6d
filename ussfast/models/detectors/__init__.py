"""Networks that say which sounds are in a recording, and when: a configuration dataclass and a module each, by name."""

from ussfast.models.detectors._base import Detection, DetectorModel
from ussfast.models.detectors.cnn14 import Cnn14, Cnn14Config

__all__ = ["DETECTORS", "Detection", "DetectorModel"]

DETECTORS: dict[str, tuple[type, type[DetectorModel]]] = {
    "cnn14": (Cnn14Config, Cnn14),
}
"""`ussfast.checkpoints.names.DETECTORS` repeats the names for what does without torch."""
