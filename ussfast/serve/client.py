"""A client of live streams that survives lost connections and restarts of the server."""

import base64
import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from ussfast.audio import as_samples
from ussfast.errors import InputError, UssfastError
from ussfast.prompts.names import as_names
from ussfast.serve.outbox import End, Outbox
from ussfast.serve.streams.protocol import FORMATS, HEADER, MOST_MESSAGE_S, PIECE, VERSION
from ussfast.streaming.live.pcm import WIDTHS, decode, encode
from ussfast.values import one_of, whole

KEPT_S = 600.0  # of audio, while the server is away
PING_S, OPEN_S, CLOSE_S = 5.0, 10.0, 1.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 2.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, eq=False)
class Piece:
    """first: position of its first sample, which is that of the same sample of the input. stems: float32
    [labels, channels, samples]. late_ms: how much later than promised it was ready in the server."""

    first: int
    labels: tuple[str, ...]
    stems: np.ndarray
    late_ms: int

    def __getitem__(self, label: str) -> np.ndarray:
        """The stem [channels, samples] of a label."""
        if label not in self.labels:
            raise InputError(f"no stem {label!r}; there are {', '.join(self.labels)}")
        return self.stems[self.labels.index(label)]


class StreamClient:
    """One live stream of a server, `for piece in client.stream(chunks)`.

    Args:
        url: of the server, http://HOST:PORT.
        sample_rate, channels: of the chunks. prompts: what to separate. format: on the way, f32le or s16le.
        token: if the server has one.
        resumable: a lost connection, and a server that begins again, cost nothing but time: the server goes on from a
            snapshot, and the client sends again what came after.
        patience_s: how long the server may be away.
    Attributes:
        labels: of the newest piece. reconnects: how often the connection was lost.
    """

    def __init__(
        self,
        url: str,
        sample_rate: int,
        *,
        channels: int = 1,
        prompts: Iterable[str] | str = (),
        format: str = "f32le",
        token: str | None = None,
        resumable: bool = True,
        patience_s: float = 60.0,
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname:
            raise InputError(f"the server's address is http://HOST:PORT, got {url!r}")
        self._secure, self._address = parts.scheme in ("https", "wss"), parts
        self.sample_rate = whole(sample_rate, "sample_rate", 1, 1 << 30)
        self.channels = whole(channels, "channels", 1, 1 << 10)
        self._format, self._resumable, self._patience_s = one_of(format, "format", FORMATS), resumable, patience_s
        self._token, self._prompts = token, as_names(prompts)
        self._frame_bytes = WIDTHS[format] * self.channels
        self._outbox = Outbox(self._frame_bytes, round(KEPT_S * self.sample_rate))
        self.labels: tuple[str, ...] = ()
        self._all_labels: dict[int, tuple[str, ...]] = {}
        self.reconnects = self.received = 0
        self._stream: str | None = None
        self._socket: ClientConnection | None = None
        self._leave = ExitStack()  # of what the socket needs
        self._error: BaseException | None = None
        self._began = False

    def set_prompts(self, prompts: Iterable[str] | str) -> None:
        """Separates what is sent from now on by other prompts; any thread may say so. Unknown ones end the stream with
        an InputError."""
        self._outbox.prompts(as_names(prompts))

    def stream(self, chunks: Iterable[Any]) -> Iterator[Piece]:
        """Sends chunks, arrays [samples] or [channels, samples] of any length, as they come; yields pieces in order and
        without gaps, as many samples in all as there were in the chunks.

        Raises:
            InputError: what the server refuses. UssfastError: it has no room, or was away for longer than `patience_s`.
        """
        if self._began:
            raise InputError("a client is for one stream: make another one")
        self._began = True
        self._open(None)
        threading.Thread(target=self._feed, args=(chunks,), name="ussfast chunks", daemon=True).start()
        try:
            while True:
                assert self._socket is not None
                try:
                    message = self._socket.recv(decode=False)
                except (WebSocketException, OSError) as error:
                    self._go_on(error)
                    continue
                if message[:1] == b"{":
                    if self._hear(json.loads(message)):
                        return
                elif (piece := self._piece(message)) is not None:
                    yield piece
        finally:
            self._outbox.close()
            self._hang_up()

    # The connection.

    def _open(self, received: int | None) -> None:
        """Begins the stream, or goes on with it; raises what `connect` does."""
        path = "/v1/streams" if received is None else f"/v1/streams/{self._stream}"
        asked: dict[str, Any] = {"received": received}
        if received is None:
            asked = {"sample_rate": self.sample_rate, "channels": self.channels, "format": self._format}
            asked |= {"resumable": str(self._resumable).lower()} | ({"prompts": ",".join(self._prompts)} if self._prompts else {})
        parts = self._address
        url = urlunsplit(("wss" if self._secure else "ws", parts.netloc, parts.path.rstrip("/") + path, urlencode(asked), ""))
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        more: dict[str, Any] = {"proxy": None} if parts.hostname in LOOPBACK else {}
        try:
            connecting = connect(
                url, subprotocols=[Subprotocol("ussfast.v1")], additional_headers=headers, compression=None,
                max_size=None, max_queue=64, open_timeout=OPEN_S, ping_interval=PING_S, ping_timeout=PING_S,
                close_timeout=CLOSE_S, **more,
            )  # fmt: skip
            self._socket = self._leave.enter_context(connecting)
            hello = json.loads(self._socket.recv(timeout=OPEN_S))
        except InvalidStatus as error:
            if received is None:
                raise _refusal(error) from None
            raise
        except (WebSocketException, OSError) as error:
            if received is None:
                raise UssfastError(f"no stream at {url}: {error}") from error
            raise
        self._stream = hello["stream"]
        self._all_labels = {hello["labels_id"]: tuple(hello["labels"])}
        line = self._outbox.begin(hello.get("next_input", 0))
        if line is None:
            raise UssfastError("the server wants audio again that it said it would never need: the stream is lost")
        threading.Thread(target=self._send, args=(self._socket, line), name="ussfast sends", daemon=True).start()

    def _hang_up(self) -> None:
        with suppress(Exception):
            self._leave.close()

    def _go_on(self, error: Exception) -> None:
        """Connects again, as long as there is patience."""
        if self._error is not None:
            raise self._error
        if not self._resumable:
            raise UssfastError(f"the connection was lost: {error}") from error
        self.reconnects += 1
        until, wait = time.monotonic() + self._patience_s, FIRST_WAIT_S
        while True:
            self._hang_up()
            try:
                self._open(self.received)
                return
            except InvalidStatus as refused:
                status, error = refused.response.status_code, refused
                if status < 500 and "Retry-After" not in refused.response.headers:
                    raise _refusal(refused) from None
            except (WebSocketException, InvalidHandshake, OSError) as away:
                error = away
            if time.monotonic() + wait > until:
                raise UssfastError(f"the server was away for longer than {self._patience_s:g} s: {error}") from error
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    # In.

    def _hear(self, message: dict[str, Any]) -> bool:
        """True at the end."""
        kind = message["type"]
        if kind == "labels":
            self._all_labels[message["labels_id"]] = tuple(message["labels"])
        elif kind == "prompts":
            self._outbox.answered()
        elif kind == "saved" and message["output"] <= self.received:
            self._outbox.saved(message["input"])
            with suppress(WebSocketException, OSError):  # said again after the next one
                assert self._socket is not None
                self._socket.send(json.dumps({"type": "ack", "received": self.received}))
        elif kind == "error" and message["code"] not in ("idle", "failed"):
            raise InputError(message["detail"])
        elif kind == "ended":
            if message["output"] != self.received or message["input"] != self._outbox.end_at:
                raise UssfastError(f"the server ended at {message}, but {self.received} samples came here")
            return True
        return False

    def _piece(self, data: bytes) -> Piece | None:
        version, kind, stems, labels_id, first, frames, late_ms = HEADER.unpack_from(data)
        if (version, kind) != (VERSION, PIECE):
            return None  # of a newer server
        if first != self.received:
            raise UssfastError(f"samples from {self.received} on were to come, not from {first} on")
        self.received += frames
        self.labels = self._all_labels[labels_id]
        samples = decode(memoryview(data)[HEADER.size :], self._format, 1).reshape(stems, self.channels, frames)
        return Piece(first, self.labels, samples, late_ms)

    # Out.

    def _feed(self, chunks: Iterable[Any]) -> None:
        most = max(1, int(MOST_MESSAGE_S * self.sample_rate) // 2)
        try:
            for chunk in chunks:
                audio = as_samples(chunk, "chunk", self.channels)
                if len(audio) != self.channels:
                    raise InputError(f"this stream has {self.channels} channels, the chunk {len(audio)}")
                for at in range(0, audio.shape[1], most):
                    part = audio[:, at : at + most]
                    self._outbox.audio(part.shape[1], encode(part, self._format)[0])
                if self._outbox.closed:
                    return
            self._outbox.end()
        except BaseException as error:  # belongs to who takes the pieces
            self._error = error
            with suppress(Exception):
                assert self._socket is not None
                self._socket.close()

    def _send(self, socket: ClientConnection, line: int) -> None:
        with suppress(WebSocketException, OSError):  # whoever receives goes on
            while (entry := self._outbox.take(line)) is not None:
                if isinstance(entry, bytes):
                    socket.send(entry)
                elif isinstance(entry, End):
                    socket.send('{"type":"end"}')
                else:
                    socket.send(json.dumps({"type": "prompts", "prompts": entry.names}))


def subprotocol_of(token: str) -> str:
    """How a token is said where there are no headers, as in browsers."""
    return "bearer." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def _refusal(error: InvalidStatus) -> UssfastError:
    """What the server said, as an error of ours."""
    status, body = error.response.status_code, bytes(error.response.body or b"")
    try:
        detail = str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"the server answered {status}"
    return UssfastError(detail) if status >= 500 else InputError(detail)
