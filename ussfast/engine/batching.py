"""Windows of files and streams, and chunks of files, computed together when they wait at the same time."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ussfast.errors import OutOfMemoryError

T = TypeVar("T")

# From what was joined, such as items [items, (channels,) samples] and prompts [items, sources, dim] of windows, to what
# waits for its result, [items, sources, ...].
Launch = Callable[..., Callable[[], Any]]

PATIENCE_SECONDS = 0.004  # for windows of threads that are between two of theirs: much less than a window takes
FLYING = 2  # batches that may be under way: one computes, one is copied


class Waiting:
    """A piece of work and what became of it."""

    out: Any = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.out is not None or self.error is not None

    def fits(self, other: Any) -> bool:
        """Whether both can be in one batch."""
        raise NotImplementedError

    @staticmethod
    def joined(batch: Sequence[Any]) -> tuple[Any, ...]:
        """What is launched for them together."""
        raise NotImplementedError

    @staticmethod
    def parts(out: Any, batch: Sequence[Any]) -> list[Any]:
        """What each of them has of it."""
        raise NotImplementedError


@dataclass(eq=False)
class Ticket(Waiting):
    """A window: items [items, (channels,) samples], not empty; prompts [sources, dim] or None."""

    items: np.ndarray
    prompts: Tensor | None

    def fits(self, other: "Ticket") -> bool:
        """Prompts may differ, but not their number: the model would see others."""
        shapes = [(t.items.shape[1:], None if t.prompts is None else t.prompts.shape) for t in (self, other)]
        return shapes[0] == shapes[1]

    @staticmethod
    def joined(batch: "Sequence[Ticket]") -> tuple[np.ndarray, Tensor | None]:
        items = np.concatenate([ticket.items for ticket in batch])
        prompts = [t.prompts.expand(len(t.items), *t.prompts.shape) for t in batch if t.prompts is not None]
        return items, torch.cat(prompts) if prompts else None

    @staticmethod
    def parts(out: np.ndarray, batch: "Sequence[Ticket]") -> list[np.ndarray]:
        return np.split(out, np.cumsum([len(ticket.items) for ticket in batch])[:-1])


@dataclass(eq=False)
class _Flight:
    tickets: list[Waiting]
    wait: Callable[[], Any]


class Batches:
    """Runs windows in batches. There is no thread of its own: of the threads that wait, one at a time launches.

    Args:
        launch: begins to compute a batch.
        most: windows of a batch; halved whenever one does not fit into memory.
    """

    def __init__(self, launch: Launch, most: int):
        self._launch, self.most = launch, most
        self._changed = Condition()
        self._waiting: list[Waiting] = []
        self._flying = self._present = 0
        self._runs: list[Sequence[Waiting]] = []  # of the threads that are in here
        self._launching = False

    @contextmanager
    def present(self) -> Iterator[None]:
        """This thread will bring windows, one call of `run` after the other: others may wait for it a little."""
        with self._changed:
            self._present += 1
        try:
            yield
        finally:
            with self._changed:
                self._present -= 1
                self._changed.notify_all()

    def run(self, tickets: Sequence[Waiting]) -> list[Any]:
        """Results of the windows, [items, sources, (channels,) samples], in order.

        Raises:
            OutOfMemoryError: a window alone does not fit. Whatever else a window's batch raised.
        """
        mine: list[_Flight] = []
        with self._changed:
            self._waiting += tickets
            self._runs.append(tickets)
            self._changed.notify_all()
        try:
            while mine or not all(ticket.done for ticket in tickets):
                batch = self._next(tickets, bool(mine))
                if batch:
                    mine += self._begin(batch)
                elif mine:
                    self._end(mine.pop(0))
        finally:
            self._leave(tickets, mine)
        for ticket in tickets:
            if ticket.error is not None:
                raise ticket.error
        return [ticket.out for ticket in tickets if ticket.out is not None]

    def _leave(self, tickets: Sequence[Waiting], mine: list[_Flight]) -> None:
        with self._changed:
            self._runs = [run for run in self._runs if run is not tickets]
            # Only after an interrupt is anything left here.
            self._waiting = [ticket for ticket in self._waiting if ticket not in tickets]
            for flight in mine:
                self._back(flight.tickets, tickets)
            self._changed.notify_all()

    def _free(self) -> bool:
        return bool(self._waiting) and not self._launching and self._flying < FLYING

    def _next(self, tickets: Sequence[Waiting], flying: bool) -> list[Waiting]:
        """A batch to launch; none if it is time to look after one's own."""
        with self._changed:
            self._changed.wait_for(lambda: flying or self._free() or all(ticket.done for ticket in tickets))
            if not self._free() or all(ticket.done for ticket in tickets):
                return []
            self._launching = True
            try:
                self._gather()
            except BaseException:
                self._launching = False
                raise
            first = self._waiting[0]
            batch = [ticket for ticket in self._waiting if ticket.fits(first)][: self.most]
            self._waiting = [ticket for ticket in self._waiting if ticket not in batch]
            self._flying += 1
            return batch

    def _gather(self) -> None:
        """Waits for windows of threads that are present and do not wait in here themselves."""
        end = time.monotonic() + PATIENCE_SECONDS
        while len(self._waiting) < self.most and self._waits() < self._present and (left := end - time.monotonic()) > 0:
            self._changed.wait(left)

    def _waits(self) -> int:
        """Threads whose windows are not all done: others are about to leave, and to bring their next ones."""
        return sum(not all(ticket.done for ticket in run) for run in self._runs)

    def _begin(self, batch: list[Waiting]) -> list[_Flight]:
        try:
            wait = self._attempt(batch, lambda: self._launch(*batch[0].joined(batch)))
        finally:
            with self._changed:
                self._launching = False
                self._changed.notify_all()
        return [] if wait is None else [_Flight(batch, wait)]

    def _end(self, flight: _Flight) -> None:
        tickets = flight.tickets
        parts = self._attempt(tickets, lambda: tickets[0].parts(flight.wait(), tickets))
        if parts is None:
            return
        with self._changed:
            for ticket, part in zip(flight.tickets, parts, strict=True):
                ticket.out = part
            self._flying -= 1
            self._changed.notify_all()

    def _attempt(self, batch: list[Waiting], work: Callable[[], T]) -> T | None:
        """What work gives; None if it failed, and then the batch waits again or has the error."""
        try:
            return work()
        except OutOfMemoryError as error:
            if len(batch) == 1:
                self._fail(batch, error)
            else:
                with self._changed:
                    self.most = max(1, len(batch) // 2)
                    self._back(batch)
        except Exception as error:
            self._fail(batch, error)
        except BaseException:  # an interrupt is for this thread alone
            with self._changed:
                self._back(batch)
            raise
        return None

    def _fail(self, batch: list[Waiting], error: Exception) -> None:
        with self._changed:
            for ticket in batch:
                ticket.error = error
            self._flying -= 1
            self._changed.notify_all()

    def _back(self, batch: list[Waiting], without: Sequence[Waiting] | None = None) -> None:
        """The batch is no longer under way: its windows wait again, in front; the lock is held."""
        self._waiting[:0] = [ticket for ticket in batch if ticket not in (without or [])]
        self._flying -= 1
        self._changed.notify_all()

