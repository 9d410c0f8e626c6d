"""ussfast: universal sound separation, fast.

    import ussfast
    out = ussfast.Separator("default", prompts=("speech", "sfxbg")).separate("talk.wav")
    out.save("stems")

Names are imported on first use, so that `import ussfast` and the command line's help do not wait for torch. The
custom ops are registered by `import ussfast.ops`, which any of the engine's names brings along.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ussfast.errors import (
    AudioError,
    CheckpointError,
    DeviceError,
    InputError,
    OutOfMemoryError,
    OutputError,
    PromptError,
    PromptWarning,
    UssfastError,
)

if TYPE_CHECKING:
    from ussfast.audio.formats import OutputFormat
    from ussfast.checkpoints.store import ModelInfo
    from ussfast.detect.detector import Detector
    from ussfast.detect.events import Event
    from ussfast.long_audio.policy import SegmentPolicy
    from ussfast.prompts.bank import Prompt, PromptBank
    from ussfast.separation import Separation
    from ussfast.separator import Separator

__version__ = "0.1.0"

_HOMES = {
    "Detector": "detect.detector",
    "Event": "detect.events",
    "ModelInfo": "checkpoints.store",
    "OutputFormat": "audio.formats",
    "Prompt": "prompts.bank",
    "PromptBank": "prompts.bank",
    "SegmentPolicy": "long_audio.policy",
    "Separation": "separation",
    "Separator": "separator",
}

__all__ = [
    "AudioError",
    "CheckpointError",
    "Detector",
    "DeviceError",
    "Event",
    "InputError",
    "ModelInfo",
    "OutOfMemoryError",
    "OutputError",
    "OutputFormat",
    "Prompt",
    "PromptBank",
    "PromptError",
    "PromptWarning",
    "SegmentPolicy",
    "Separation",
    "Separator",
    "UssfastError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ussfast' has no attribute {name!r}")
    return getattr(import_module(f"ussfast.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
