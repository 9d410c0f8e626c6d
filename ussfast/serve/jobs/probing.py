"""What an uploaded file is, by its header. Nothing here needs torch."""

from dataclasses import dataclass
from pathlib import Path

from ussfast.audio import AudioInfo, AudioReader
from ussfast.audio.decode import DecodeError
from ussfast.errors import AudioError
from ussfast.serve.problems import Problem


@dataclass(frozen=True)
class Probed:
    """seconds: None where only decoding could tell."""

    sample_rate: int
    channels: int
    seconds: float | None


def probed(path: Path, name: str, most_s: float) -> Probed:
    """What a file's header says.

    Args:
        name: that the caller gave it.
        most_s: how long it may be.
    Raises:
        Problem: 415 for what is not audio, 422 for audio that cannot be read or is too long.
    """
    try:
        with AudioReader(path) as reader:
            info: AudioInfo = reader.info
    except AudioError as error:
        status = 415 if isinstance(error.__cause__, DecodeError) else 422
        raise Problem(status, str(error).replace(str(path), name)) from None
    if info.seconds is not None and info.seconds > most_s:
        raise Problem(422, too_long(name, most_s, info.seconds))
    return Probed(info.sample_rate, info.channels, info.seconds)


def too_long(name: str, most_s: float, seconds: float | None = None) -> str:
    its = "more" if seconds is None else f"{seconds:.1f} s"
    return f"{name}: {its} than is taken here: {most_s:g} s at most" if seconds is None else (
        f"{name}: {its} of audio are longer than what is taken here: {most_s:g} s at most"
    )
