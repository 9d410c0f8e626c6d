"""Many streams at once through one causal model."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from ussfast.errors import InputError
from ussfast.prompts.bank import Plan
from ussfast.separation import Separation
from ussfast.streaming.causal import CausalCore, push_together
from ussfast.streaming.rooted import Rooted
from ussfast.streaming.rows import CausalRows
from ussfast.streaming.session import Session

OpenSession = Callable[[int, Sequence[str] | str | Plan | None], Session]  # of a row


class SessionPool(Rooted):
    """Streams that come and go, with their own prompts and phases, whose hops are computed together; made by
    `Separator.pool`. Streams are known by the numbers that `join` returns.

    rows: memory for as many streams as there may be at once.
    """

    def __init__(self, rows: CausalRows, open_session: OpenSession):
        self._rows, self._open = rows, open_session
        self._sessions: dict[int, Session] = {}
        # Numbers are never used twice: who still has that of a stream that left must not reach another.
        self._numbers, self._places = count(), dict[int, int]()

    @property
    def streams(self) -> tuple[int, ...]:
        """Those that have joined and not left."""
        return tuple(self._sessions)

    def __len__(self) -> int:
        return len(self._sessions)

    def __getitem__(self, stream: int) -> Session:
        """The session of a stream: its labels, state, `set_prompts`; InputError for one that is not there."""
        if stream not in self._sessions:
            raise InputError(f"there is no stream {stream}; there are {list(self._sessions) or 'none'}")
        return self._sessions[stream]

    def join(self, prompts: Sequence[str] | str | Plan | None = None) -> int:
        """Begins a stream.

        Args:
            prompts: of this stream, instead of the separator's; or the `plan` of another session.
        Returns:
            its number, which no other stream gets.
        Raises:
            InputError: the pool is full. PromptError: unknown prompts.
        """
        free = [row for row in range(self._rows.streams) if row not in self._places.values()]
        if not free:
            raise InputError(f"all {self._rows.streams} places of the pool are taken; open it with a larger size")
        session = self._open(free[0], prompts)
        session.reset()  # the place may have been another stream's
        stream = next(self._numbers)
        self._sessions[stream], self._places[stream] = session, free[0]
        return stream

    def push(self, chunks: Mapping[int, Any]) -> dict[int, Separation]:
        """What follows in some of the streams, each of any length, as for `Session.push`; all in one computation.

        Raises:
            InputError, AudioError: as `Session.push`, for the first stream whose chunk is wrong. No stream has changed.
        """
        sessions = {stream: self[stream] for stream in chunks}
        checked = {stream: sessions[stream].checked(chunk) for stream, chunk in chunks.items()}
        if not checked:
            return {}
        cores = {stream: _core(session) for stream, session in sessions.items()}
        out = push_together({cores[stream]: sessions[stream].take(chunk) for stream, chunk in checked.items()})
        return {stream: session.give(out[cores[stream]]) for stream, session in sessions.items()}

    def leave(self, stream: int) -> Separation:
        """Ends a stream and returns its rest; its place is free then, and its session of no more use."""
        rest = self[stream].flush()
        self[stream].close()
        del self._sessions[stream]
        self._rows.former[self._places.pop(stream)] += 1
        return rest

    def reset(self, stream: int) -> None:
        """Begins a stream again with the same prompts; what was not given out yet is lost."""
        self[stream].reset()


def _core(session: Session) -> CausalCore:
    assert isinstance(session.core, CausalCore)
    return session.core
