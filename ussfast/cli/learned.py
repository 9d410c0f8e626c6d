"""`ussfast stream --learn`: prompts that get better while the stream runs. Nothing here needs torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ussfast.cli.telling import note, warn
from ussfast.errors import InputError


class Learned:
    """What is tuned beside a stream.

    Args:
        clips: of each name.
        save: a bank that gets the prompts at the end, or None.
        tell: whether better prompts get a line on standard error.
    Raises:
        InputError, OutputError: nothing is learned that could be saved; the bank cannot be written, or is there.
    """

    def __init__(self, clips: Mapping[str, list[Path]], save: Path | None, tell: bool):
        from ussfast.cli import checks

        if save is not None and not clips:
            raise InputError(f"--save-prompts {save}: is for what is learned: give --learn NAME=PATH, too")
        if save is not None:
            checks.new_bank(save, [])
        self._clips, self._save, self._tell = dict(clips), save, tell
        self._separator: Any = None
        self._session: Any = None
        self._running: list[Any] = []

    def begin(self, separator: Any, session: Any) -> None:
        """Tunes beside the session, whose separator has prompts of these names already."""
        self._separator, self._session = separator, session
        for name, paths in self._clips.items():
            self._running.append(session.tune(name, paths, on_step=self._teller(name)))

    def end(self) -> None:
        """Stops it and saves what there is; a line on standard error for what went wrong with it."""
        if not self._running:
            return
        self._session.close()
        for learning in self._running:
            if learning.done:
                try:
                    learning.wait()
                except Exception as error:
                    warn(f"{learning.name!r} was not learned to the end: {error}")
        if self._save is not None:
            self._separator.save_prompts(self._save, list(self._clips))

    def _teller(self, name: str) -> Callable[[Any], None]:
        newest: list[Any] = [None]

        def tell(step: Any) -> None:
            former, newest[0] = newest[0], step.prompt
            if self._tell and step.prompt is not former and step.prompt.kind == "tuned":
                tuning = step.prompt.origin.tuning
                gain = f"held-out SDR {tuning.before:.1f} -> {tuning.after:.1f} dB"
                note(f"a better prompt {name!r} after {tuning.steps} steps: {gain}")

        return tell
