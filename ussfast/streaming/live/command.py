"""What `ussfast stream` does once its options are read."""

import sys
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ussfast.interrupts import held
from ussfast.separation import Separation
from ussfast.streaming.live.card import QUEUE_SECONDS, Card, LiveQueues
from ussfast.streaming.live.crossfade import FADE_S
from ussfast.streaming.live.fallback import Fallback
from ussfast.streaming.live.kept import Kept
from ussfast.streaming.live.outputs import Selection, StemFiles, check_standard_output
from ussfast.streaming.live.pace import block_seconds
from ussfast.streaming.live.pcm import RawWriter
from ussfast.streaming.live.pump import Pumped, pump
from ussfast.streaming.live.sources import FileSource, PipeSource
from ussfast.streaming.live.statistics import Statistics
from ussfast.streaming.live.virtual import VirtualMicrophone
from ussfast.streaming.session import Session


@dataclass(frozen=True)
class Destination:
    """Where stems go, and what is told about it.

    stem, all_stems: as for Selection, for what is played or written to standard output.
    directory: for a file per stem; with it, nothing is played or written to standard output unless chosen.
    residual: a file for it too.
    statistics: "text" or "json" lines on standard error, or None.
    keep: labels of the stems that get a file; None: all.
    stay: files that were read, besides the source: no stem may take their place.
    """

    stem: str | None
    all_stems: bool
    directory: Path | None
    residual: bool
    statistics: str | None
    keep: tuple[str, ...] | None = None
    stay: tuple[Path, ...] = ()

    @property
    def chosen(self) -> bool:
        """Whether something is played or written to standard output."""
        return self.directory is None or self.stem is not None or self.all_stems

    def selection(self, session: Session) -> Selection | None:
        return Selection(session.labels, self.stem, self.all_stems) if self.chosen else None

    def files(self, session: Session, sample_rate: int, channels: int, source: Path | None) -> StemFiles | None:
        if self.directory is None:
            return None
        return StemFiles(
            self.directory, session.labels, self.residual, sample_rate, channels, source, self.keep, self.stay
        )


def from_source(
    source: PipeSource | FileSource, open_session: Callable[[int, int], Session], to: Destination, format: str
) -> None:
    """Separates a source to standard output in `format`, to files, or both.

    Args:
        open_session: makes the session for a sample rate in Hz and a number of channels.
    Raises:
        InputError: standard output is a terminal or closed. What the source, session and outputs raise.
    """
    if to.chosen:
        check_standard_output()
    session = open_session(source.sample_rate, source.channels)
    selection = to.selection(session)
    files = to.files(session, source.sample_rate, source.channels, source.path)
    out = RawWriter(getattr(sys.stdout, "buffer", None), format)  # closed where only files are written
    put = (lambda piece: out.write(selection.channels(piece))) if selection else None
    blocks = source.blocks(session.hop_seconds)
    _run(blocks, session, source.sample_rate, to, files, put, lambda: 0, lambda: out.clipped)


def live(
    card: Card,
    open_session: Callable[[int, int], Session],
    to: Destination,
    block_s: float | None,
    microphone: str | None = None,
) -> None:
    """Separates what a sound card hears and plays the chosen stems, or writes files, until an interrupt.

    Args:
        block_s: of the card, in seconds; default: the session's hop, 20 ms at most.
        microphone: name of a virtual one that the chosen stems go to, instead of being played; the card has no outputs.
            One stem alone gives way to the input while the work is late.
    """
    session = open_session(card.sample_rate, card.channels)
    selection = to.selection(session)
    outputs = card.channels * len(selection.names) if selection else 0
    with ExitStack() as stack:
        virtual: VirtualMicrophone | None = None
        if microphone is not None:
            with held():  # once it is there, it is removed in any case
                virtual = stack.enter_context(VirtualMicrophone(microphone, card.sample_rate, outputs))
        queues, stream = card.start(block_s or block_seconds(session.hop_seconds), session.hop_seconds, outputs)
        stack.enter_context(closing(stream))
        sink: LiveQueues | VirtualMicrophone = queues if virtual is None else virtual
        put = (lambda piece: sink.write(selection.channels(piece))) if selection else None
        files = to.files(session, card.sample_rate, card.channels, None)
        one: OneSound | None = None
        if virtual is not None and files is None and selection is not None and len(selection.names) == 1:
            one = OneSound(session, selection.names[0], card.channels, QUEUE_SECONDS)

        def lost() -> int:
            return queues.dropouts + (0 if one is None else one.overruns)

        _run(queues.blocks(), one or session, card.sample_rate, to, files, put, lost, lambda: sink.clipped)


class OneSound:
    """A session as `pump` takes it that gives one stem, or its input while the work is late.

    Args:
        session: at its beginning. stem: a label of it, or "residual".
        late_s: delay that is borne, in seconds.
        clock: in seconds.
    """

    def __init__(
        self,
        session: Session,
        stem: str,
        channels: int,
        late_s: float,
        clock: Callable[[], float] = time.perf_counter,
    ):
        fade = max(1, round(FADE_S * session.sample_rate))
        self._stem, self._rate = stem, session.sample_rate
        self._sound = Fallback(session, channels, Kept([stem], fade), fade, late_s, clock)
        self.latency, self.hop_seconds = session.latency, session.hop_seconds

    @property
    def overruns(self) -> int:
        return self._sound.overruns

    def push(self, block: np.ndarray) -> Separation:
        return self._given(self._sound.push(block))

    def flush(self) -> Separation:
        return self._given(self._sound.flush())

    def _given(self, sound: np.ndarray) -> Separation:
        return Separation((self._stem,), sound[None], self._rate, sound)


def _run(
    blocks: Iterable[np.ndarray],
    session: Pumped,
    sample_rate: int,
    to: Destination,
    files: StemFiles | None,
    put: Callable[[Separation], None] | None,
    dropouts: Callable[[], int],
    clipped: Callable[[], int],
) -> None:
    """Pumps, with what happens on the way told on standard error: statistics, warnings, samples that were lost."""
    write = _tell if to.statistics else None
    as_json = to.statistics == "json"
    statistics = Statistics(
        session.latency, session.hop_seconds, write, as_json, dropouts=dropouts, clipped=clipped
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", RuntimeWarning)
            warnings.showwarning = lambda message, *rest: _tell(f"ussfast: {message}")
            pump(blocks, session, sample_rate, statistics, files, put)
    finally:
        if not to.statistics and (dropouts() or clipped()):
            _tell(f"ussfast: {dropouts()} dropouts, {clipped()} clipped samples")
        if files is not None and not to.chosen:  # standard output is not audio then
            for path in files.written:
                print(path)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
