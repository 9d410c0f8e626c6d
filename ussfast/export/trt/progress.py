"""How far TensorRT is with an engine, on a terminal, and how a build is ended before it is done."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Bar:
    """A bar of the outermost phase; the innermost one is named beside it."""

    def __init__(self, what: str, shown: bool):
        self._what = what
        self._hidden = None if shown else True  # None: where there is a terminal
        self._bar: Any = None
        self._phases: dict[str, tuple[str | None, int]] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=steps, desc=self._what, unit=" steps", disable=self._hidden, leave=False)
        self._phases[phase] = (parent, steps)
        self._name(phase)

    def step(self, phase: str, number: int) -> None:
        parent, steps = self._phases.get(phase, (None, 0))
        if parent not in self._phases:
            self._bar.update(1)
        else:
            self._name(f"{phase} {number + 1}/{steps}")

    def finish(self, phase: str) -> None:
        parent, _ = self._phases.pop(phase, (None, 0))
        if parent in self._phases:
            self._name(str(parent))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _name(self, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)


def monitor_of(trt: Any, bar: Bar, cancelled: threading.Event) -> Any:
    """An IProgressMonitor that moves the bar, and ends the build once `cancelled` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()  # phases that run beside each other report from several threads

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._do(bar.start, phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._do(bar.step, phase_name, step)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._do(bar.finish, phase_name)

        def _do(self, change: Callable[..., None], *about: Any) -> None:
            # A terminal that is gone ends no build; what left here would end the process, from C++.
            with self._lock, contextlib.suppress(Exception):
                change(*about)

    return Monitor()


def interruptible(work: Callable[[], T], cancelled: threading.Event) -> T:
    """The result of `work`, which runs in a thread of its own: C++ that takes minutes lets no Ctrl-C through.

    An interrupt sets `cancelled`, waits until the work has noticed, and goes on upwards; a second one does not wait.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="tensorrt-build", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except BaseException:
        cancelled.set()
        thread.join()
        raise
    if failed:
        raise failed[0]
    return done[0]
