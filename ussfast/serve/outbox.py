"""What a client of a live stream has said and may have to say again; for several threads."""

import threading
from collections import deque
from dataclasses import dataclass


@dataclass(eq=False)
class Audio:
    """frames of the stream's format, the first of them at position `at`."""

    at: int
    frames: int
    data: bytes


@dataclass(eq=False)
class Prompts:
    """A change at a position; once it is answered the server knows it for good."""

    at: int
    names: tuple[str, ...]
    answered: bool = False


@dataclass(eq=False)
class End:
    at: int


Entry = Audio | Prompts | End


class Outbox:
    """Entries in order, from the oldest that may be needed again.

    frame_bytes: of one frame. most: frames that are kept at most; `audio` waits for room.
    """

    def __init__(self, frame_bytes: int, most: int):
        self._frame_bytes, self._most = frame_bytes, most
        self._entries: deque[Entry] = deque()
        self._next = 0  # of what is to be sent, among the entries
        self._skip = 0  # frames of it that the server has
        self._condition = threading.Condition()
        self._line = 0  # the connection that entries are taken for
        self.end_at = 0  # frames in all so far
        self.closed = False

    def audio(self, frames: int, data: bytes) -> None:
        with self._condition:
            while self._kept() > self._most and not self.closed:
                self._condition.wait()
            self._entries.append(Audio(self.end_at, frames, data))
            self.end_at += frames
            self._condition.notify_all()

    def _kept(self) -> int:
        return self.end_at - (self._entries[0].at if self._entries else self.end_at)

    def prompts(self, names: tuple[str, ...]) -> None:
        with self._condition:
            self._entries.append(Prompts(self.end_at, names))
            self._condition.notify_all()

    def end(self) -> None:
        with self._condition:
            self._entries.append(End(self.end_at))
            self._condition.notify_all()

    def close(self) -> None:
        """Nobody takes anything any more."""
        with self._condition:
            self.closed = True
            self._condition.notify_all()

    def begin(self, at: int) -> int | None:
        """Another connection, which wants what follows from this position; its number for `take`. None if that is not
        there any more."""
        with self._condition:
            if not self.end_at - self._kept() <= at <= self.end_at:
                return None
            self._next = 0
            for entry in self._entries:
                if isinstance(entry, Prompts) and entry.at < at:
                    entry.answered = True  # the answer was lost, the change was not
                if isinstance(entry, Audio) and entry.at + entry.frames > at or entry.at >= at:
                    break
                self._next += 1
            first = self._entries[self._next] if self._next < len(self._entries) else None
            self._skip = at - first.at if isinstance(first, Audio) else 0
            self._line += 1
            self._condition.notify_all()
            return self._line

    def take(self, line: int) -> Prompts | End | bytes | None:
        """What to send next; waits for it. None if this connection is not the newest, or all is over."""
        with self._condition:
            while True:
                if line != self._line or self.closed:
                    return None
                if self._next < len(self._entries):
                    entry = self._entries[self._next]
                    self._next += 1
                    if isinstance(entry, Audio):
                        skip, self._skip = self._skip, 0
                        return entry.data[skip * self._frame_bytes :] if skip else entry.data
                    if isinstance(entry, End) or not entry.answered:
                        return entry
                else:
                    self._condition.wait()

    def answered(self) -> None:
        """The oldest change that was sent is known to the server."""
        with self._condition:
            for entry in self._entries:
                if isinstance(entry, Prompts) and not entry.answered:
                    entry.answered = True
                    return

    def saved(self, before: int) -> None:
        """The server needs nothing before this position."""
        with self._condition:
            while self._entries and self._next > 0:
                first = self._entries[0]
                old = isinstance(first, Audio) and first.at + first.frames <= before
                if not old and not (isinstance(first, Prompts) and first.answered and first.at <= before):
                    break
                self._entries.popleft()
                self._next -= 1
            self._condition.notify_all()
