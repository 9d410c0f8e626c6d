"""One live stream between its connection, which brings chunks, and the hub, which computes pieces of them."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ussfast.errors import InputError
from ussfast.prompts.bank import Plan
from ussfast.separation import Separation
from ussfast.serve.streams.protocol import Asked, Change, Close, End, packed, text_of
from ussfast.streaming.live.pcm import decode
from ussfast.streaming.pool import SessionPool
from ussfast.streaming.session import Session
from ussfast.streaming.states import SessionState

if TYPE_CHECKING:
    from ussfast.serve.streams.hub import Hub


class Out(NamedTuple):
    """What goes to the client: a piece as bytes or a message as text, seconds of audio in it; then perhaps the end."""

    data: bytes | str
    seconds: float = 0.0
    close: Close | None = None


@dataclass(slots=True, eq=False)
class Chunk:
    """Whole frames as they came. due: when real time has come to them, by the monotonic clock."""

    data: bytes | memoryview
    frames: int
    due: float


@dataclass(frozen=True)
class Recorded:
    """What is asked for from an input position on. number: of the change, from 1."""

    number: int
    at: int
    plan: Plan


@dataclass(frozen=True)
class Taken:
    """All that there is to remember of a stream: input and output positions, changes that are in it, and a state."""

    input: int
    output: int
    number: int
    state: SessionState


class Live:
    """The connection's side adds chunks, changes and the end; all else is the hub's, in whose thread the pool is.

    id: the right to go on with it. asked: by the client. skip: output frames up to this position are not sent, for the
    client has them. changes: to be made again when their positions are reached. number: of the newest change.
    """

    hub: "Hub"

    def __init__(self, id: str, asked: Asked, skip: int = 0, changes: tuple[Recorded, ...] = (), number: int = 0):
        self.id, self.asked, self.skip = id, asked, skip
        self.items: deque[Chunk | Change | End] = deque()
        self.received = self.taken = self.given = 0  # frames: from the client, into the session, out of it
        self.number = number
        self.again = deque(changes)
        self._due = 0.0
        self.pool: SessionPool | None = None
        self.place = -1
        self.labels: tuple[str, ...] = ()
        self.labels_id = 0
        self.ended = False
        self.saved_at = 0.0
        self.send: Callable[[Out], None] = nowhere  # of the connection, in its thread

    # The connection's side.

    @property
    def waiting_s(self) -> float:
        """Audio that came and is not computed yet."""
        return (self.received - self.taken) / self.asked.sample_rate

    def add(self, data: bytes) -> None:
        """A message of audio; InputError if it is not whole frames."""
        size = self.asked.frame_bytes
        frames = len(data) // size
        if frames * size != len(data):
            raise InputError(
                f"{len(data)} bytes are no whole frames: {self.asked.channels} channels of {self.asked.format} make "
                f"frames of {size} bytes"
            )
        if not frames:
            return
        now = time.perf_counter()
        # A client that is ahead of real time, as one that sends again what was lost, waits for those that are due.
        due = max(now, min(self._due, now + self.waiting_s))
        self._due = due + frames / self.asked.sample_rate
        self.received += frames
        self.items.append(Chunk(data, frames, due))

    # The hub's side.

    @property
    def session(self) -> Session:
        assert self.pool is not None
        return self.pool[self.place]

    @property
    def due(self) -> float:
        """Of what is to be done next."""
        first = self.items[0]
        return first.due if isinstance(first, Chunk) else 0.0

    def next_chunk(self, most: int) -> tuple[np.ndarray, float] | None:
        """Up to `most` frames as [channels, frames] and when the last of them was due; None where something else is
        first, or a change has to be made again here."""
        if self.again:
            most = min(most, self.again[0].at - self.taken)
        found: list[bytes | memoryview] = []
        due, left = 0.0, most
        while left and self.items and isinstance(first := self.items[0], Chunk):
            due = first.due
            if first.frames <= left:
                found.append(first.data)
                left -= first.frames
                self.items.popleft()
            else:
                size = left * self.asked.frame_bytes
                view = memoryview(first.data)
                found.append(view[:size])
                first.data, first.frames, left = view[size:], first.frames - left, 0
        if left == most:
            return None
        self.taken += most - left
        data = found[0] if len(found) == 1 else b"".join(found)
        return decode(data, self.asked.format, self.asked.channels), due

    def give(self, piece: Separation, late_s: float) -> list[Out]:
        """What the client gets of a piece."""
        frames = piece.stems.shape[2]
        first, self.given = self.given, self.given + frames
        stems = piece.stems
        if first < self.skip:
            stems, first = stems[..., self.skip - first :], min(self.skip, self.given)
        if not stems.shape[2]:
            return []
        out = []
        if piece.labels != self.labels:
            self.labels, self.labels_id = piece.labels, self.labels_id + 1
            out.append(Out(text_of("labels", labels_id=self.labels_id, labels=piece.labels)))
        late_ms = max(0, round(late_s * 1000))
        data = packed(stems, self.labels_id, first, late_ms, self.asked.format)
        out.append(Out(data, stems.shape[2] / self.asked.sample_rate))
        return out

    def take(self) -> Taken | None:
        """A copy of all that there is to remember; None while former prompts fade, which no state has."""
        if self.ended or self.pool is None or not self.session.settled:
            return None
        return Taken(self.taken, self.given, self.number, self.session.state)


def nowhere(out: Out) -> None:
    """For who is gone."""
