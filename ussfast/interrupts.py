"""Ctrl-C, SIGTERM and SIGHUP: all of them unwind, so that nothing half-written stays.

Nothing here needs more than Python.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

# SIGHUP: the terminal was closed. Windows has none.
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ended(KeyboardInterrupt):
    """A signal that ends the program; unwinds like Ctrl-C. number: of the signal."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What a shell would say of a program that the signal killed: 130 for Ctrl-C."""
    return 128 + (interrupt.number if isinstance(interrupt, Ended) else signal.SIGINT)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """During the body SIGTERM and SIGHUP raise `Ended`, once: what cleans up after it is not ended again by them.

    Without effect in other threads than the main one, and on signals that are ignored (nohup) or someone else's.
    """
    before = {number: signal.getsignal(number) for number in ENDING} if _in_main_thread() else {}
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        # An interrupt inside of exec("..."), as in what dataclasses and torch.fx write, is noted by Python 3.11 as one
        # that nobody caught: it then ends `python -m` by SIGINT whatever its exit code. The next exec takes that back.
        exec("")


def _end(number: int, frame: FrameType | None) -> None:
    for other in ENDING:  # a closed terminal sends several
        if signal.getsignal(other) is _end:
            signal.signal(other, signal.SIG_IGN)
    raise Ended(number)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """An interrupt during the body raises KeyboardInterrupt after it; a second Ctrl-C ends the program at once.

    Without effect in other threads than the main one, and on signals that are ignored or someone else's.
    """
    handlers: dict[int, Any] = {}
    if _in_main_thread():
        known = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(ENDING, _end)}
        handlers = {number: own for number, own in known.items() if signal.getsignal(number) is own}
    pending: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if pending and number == signal.SIGINT:
            raise SystemExit(128 + number)
        pending.append(number)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, own in handlers.items():
            signal.signal(number, own)
    if pending:
        handlers[pending[0]](pending[0], None)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
