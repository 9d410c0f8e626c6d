"""Who may call, and how much: token, hosts, origins, sizes and rates, before anything else sees a request."""

import base64
import binascii
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ussfast.serve.problems import Problem
from ussfast.serve.settings import LOOPBACK_NAMES, ServeSettings

SUBPROTOCOL = "ussfast.v1"
BEARER = "bearer."  # of a subprotocol: browsers give WebSockets no headers
ADDRESSES = 10_000  # whose rates are remembered


def is_open(path: str) -> bool:
    """Whether a path needs no token: what says that the server lives, and the page, which asks for the token."""
    return path in ("/", "/health", "/ready", "/favicon.ico") or path.startswith("/page/")


class Guard:
    """ASGI middleware; a request that may not pass is answered with a problem, a WebSocket before its upgrade."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, clock: Callable[[], float] = time.monotonic):
        self.app, self.settings = app, settings
        self._rates = Rates(settings.rate_per_minute, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        if scope["type"] == "http":
            receive = self._limited(receive, headers)
        await self.app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        settings, path = self.settings, scope["path"]
        host = headers.get("host", "")
        if settings.token is None and _hostname(host) not in LOOPBACK_NAMES:
            # Another site's name that was made to lead here, so that its pages could call.
            raise Problem(403, f"host {host!r}: without a token this server is called by localhost or 127.0.0.1")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host and origin not in settings.allowed_origins:
            raise Problem(403, f"pages of {origin} may not call this server: allowed_origins does not name them")
        if is_open(path):
            return
        if settings.token is not None and not _shown(headers, settings.token.get_secret_value()):
            raise Problem(401, "a token is needed: Authorization: Bearer TOKEN")
        wait = self._rates.wait((scope.get("client") or ("",))[0])
        if wait:
            raise Problem(429, f"more than {settings.rate_per_minute} requests in a minute from this address", wait)

    def _limited(self, receive: Receive, headers: Headers) -> Receive:
        """413 as soon as a body is known to be too large, whatever its header said."""
        most, seen = self.settings.max_body, 0
        too_large = Problem(413, f"a request may have {most} bytes at most")
        said = headers.get("content-length", "")
        announced = int(said[:20]) if said.isdecimal() else 0  # longer ones are as much too large

        async def limited() -> Message:
            nonlocal seen
            if announced > most:
                raise too_large
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise too_large
            return message

        return limited


class Rates:
    """Requests of an address: a bucket that fills in a minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float]):
        self._most, self._clock = float(per_minute), clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """0 and one less where there is one left; otherwise how many seconds until then."""
        now = self._clock()
        left, since = self._left.pop(address, (self._most, now))
        left = min(self._most, left + (now - since) * self._most / 60)
        allowed = left >= 1
        self._left[address] = (left - allowed, now)
        while len(self._left) > ADDRESSES:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) * 60 / self._most


def _hostname(host: str) -> str:
    """Of a Host header, "" where it is none."""
    if not host.isascii() or set(host) & set(" @/?#\\"):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _shown(headers: Headers, token: str) -> bool:
    """Whether a request has the token, in the time that any takes."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    tokens = [given.strip().encode()] if kind.lower() == "bearer" else []
    for name in headers.get("sec-websocket-protocol", "").split(","):
        if (name := name.strip()).startswith(BEARER):
            tokens.append(_decoded(name.removeprefix(BEARER)))
    same = [hmac.compare_digest(one, token.encode()) for one in tokens]  # all of them, whichever is right
    return any(same)


def _decoded(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""
