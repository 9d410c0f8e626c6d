"""What goes over the WebSocket of a stream: what is asked for, messages, pieces, and why it is closed."""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

import numpy as np

from ussfast.errors import InputError
from ussfast.plain import Checked, Range, Word, parse_json, shown
from ussfast.prompts.names import as_names
from ussfast.streaming.live.pcm import WIDTHS, encode
from ussfast.values import whole

VERSION, PIECE = 1, 0
HEADER = struct.Struct("<BBHIQII")  # version, kind, stems, labels_id, first sample, frames, late_ms
FORMATS = ("f32le", "s16le")
MOST_CHANNELS, MOST_PROMPTS = 8, 4
LEAST_RATE, MOST_RATE = 8000, 192_000
MOST_MESSAGE_S = 2.0  # of audio in one message
MOST_TEXT = 1 << 16  # bytes of a message of text
MOST_QUERY = 4096  # bytes
NAME = re.compile(r"[0-9a-f]{32}")


class Close(IntEnum):
    """Why a WebSocket is closed."""

    ENDED = 1000
    DRAINED = 1001
    GARBAGE = 1007
    NOT_ALLOWED = 1008
    TOO_LARGE = 1009
    OUR_FAULT = 1011
    TOO_SLOW = 1013
    IDLE = 4000


@dataclass(frozen=True)
class Asked:
    """A stream as a client wants it; sample_rate in Hz, format one of FORMATS."""

    sample_rate: int
    channels: int
    format: str
    prompts: tuple[str, ...] | None
    resumable: bool

    @property
    def frame_bytes(self) -> int:
        return WIDTHS[self.format] * self.channels

    @property
    def most_bytes(self) -> int:
        """Of one message."""
        return int(MOST_MESSAGE_S * self.sample_rate) * self.frame_bytes


def query_of(text: str | bytes) -> dict[str, str]:
    """Parameters of an address; InputError for one that is there twice, and for what is none."""
    if len(text) > MOST_QUERY:
        raise InputError(f"the query has {len(text)} bytes; {MOST_QUERY} are enough for a stream")
    try:
        text = text if isinstance(text, str) else text.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        raise InputError("the query is not text of the form name=value&name=value") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found and name != "prompts":
            raise InputError(f"{shown(name)} is given twice")
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def asked_of(query: Mapping[str, str]) -> Asked:
    """What the query of a new stream asks for; InputError names what is wrong."""
    known = ("sample_rate", "channels", "format", "prompts", "resumable")
    check_names(query, known)
    if "sample_rate" not in query:
        raise InputError("sample_rate is missing: of the audio that will come, in Hz")
    rate = number_in(query, "sample_rate", 0, LEAST_RATE, MOST_RATE)
    channels = number_in(query, "channels", 1, 1, MOST_CHANNELS)
    format, resumable = query.get("format", "f32le"), query.get("resumable", "true")
    if format not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, got {shown(format)}")
    if resumable not in ("true", "false"):
        raise InputError(f"resumable must be true or false, got {shown(resumable)}")
    prompts = None if "prompts" not in query else prompts_of(query["prompts"].split(","))
    return Asked(rate, channels, format, prompts, resumable == "true")


def prompts_of(names: Any) -> tuple[str, ...]:
    """Names of prompts for a stream, not yet looked up."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InputError("prompts must be a list of names")
    found = as_names([name.strip() for name in names])
    if len(found) > MOST_PROMPTS:
        raise InputError(f"{len(found)} prompts, but a live stream can have {MOST_PROMPTS} at most")
    return found


def check_names(query: Mapping[str, str], known: tuple[str, ...]) -> None:
    for name in query:
        if name not in known:
            raise InputError(f"{shown(name)} is not known here; there are {', '.join(known)}")


def number_in(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number among the parameters."""
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InputError(f"{name} must be a whole number from {least} to {most}, got {shown(text)}")
    return whole(int(text), name, least, most)


@dataclass(frozen=True)
class Ack(Checked):
    """received: output frames that are safe with the client."""

    received: Annotated[int, Range(0, 2**62)]


@dataclass(frozen=True)
class Ping(Checked):
    id: Annotated[str, Word()] | int | float | None = None


@dataclass(frozen=True)
class Change:
    """prompts: from where this stands among the chunks."""

    prompts: tuple[str, ...]


@dataclass(frozen=True)
class End:
    """Nothing follows."""


Message = Ack | Ping | Change | End


def message_of(text: str) -> Message:
    """What a client says; InputError if it is nothing of that."""
    if len(text) > MOST_TEXT:
        raise InputError(f"a message of {len(text)} characters; {MOST_TEXT} are enough")
    data = parse_json(text)
    kind = data.get("type") if isinstance(data, dict) else None
    if kind == "ack":
        return Ack(_only(data, "received"))
    if kind == "ping":
        return Ping(_only(data, "id", needed=False))
    if kind == "prompts":
        return Change(prompts_of(_only(data, "prompts")))
    if kind == "end":
        _only(data)
        return End()
    raise InputError(f"a message is an object whose type is prompts, ack, end or ping, got {shown(kind)}")


def _only(data: dict[str, Any], name: str | None = None, needed: bool = True) -> Any:
    """The one field of a message besides its type."""
    unknown = sorted(data.keys() - {"type", name})
    if unknown or (needed and name is not None and name not in data):
        raise InputError(f"a message {data['type']} has {name or 'nothing'} besides its type")
    return None if name is None else data.get(name)


def text_of(kind: str, /, **fields: Any) -> str:
    """A message of the server."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


def packed(stems: np.ndarray, labels_id: int, first: int, late_ms: int, format: Literal["f32le", "s16le"] | str) -> bytes:
    """A piece: stems [stems, channels, frames] whose first sample is the output's sample `first`."""
    head = HEADER.pack(VERSION, PIECE, len(stems), labels_id, first, stems.shape[2], min(late_ms, 2**32 - 1))
    if format == "f32le":
        return b"".join((head, np.ascontiguousarray(stems, "<f4").data))
    return head + encode(stems.reshape(1, -1), format)[0]
