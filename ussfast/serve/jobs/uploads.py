"""Forms with files, written to disk as they come in. What callers call a file is shown and never a path."""

import asyncio
import contextlib
import io
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from ussfast.audio import AUDIO_SUFFIXES
from ussfast.serve.jobs.space import Space
from ussfast.serve.problems import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

AT_ONCE = 1 << 20  # bytes that wait in memory
MOST_FIELD, MOST_FIELDS = 10_000, 200  # bytes of a value; values in all
LONGEST_NAME = 200  # characters of a name that is shown


@dataclass
class Upload:
    """name: as it may be shown. suffix: one of AUDIO_SUFFIXES, or none. path: of the bytes, for as long as the form is
    open; whoever wants to keep them moves the file away."""

    name: str
    suffix: str
    path: Path
    size: int = 0


@dataclass
class Form:
    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[Upload]] = field(default_factory=dict)

    def one(self, name: str) -> str | None:
        """The value of a field that may be left out; Problem 400 for several."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise Problem(400, f"{name} was given {len(values)} times: once is right")
        return values[0] if values and values[0].strip() else None


@contextlib.asynccontextmanager
async def received(
    request: Request, folder: Path, space: Space, fields: tuple[str, ...], files: Mapping[str, int]
) -> AsyncIterator[Form]:
    """The form that a request brings; its files are gone afterwards.

    Args:
        folder: that files are written to.
        space: what there is room for.
        fields: that there may be. files: likewise, and how many of each.
    Raises:
        Problem: 400 for no form or another one, 413 for values that are too long, 415 for another kind of body,
            507 where there is no room.
    """
    reader = _Reader(folder, fields, files)
    try:
        parser = MultipartParser(_boundary(request), reader.callbacks())
        async for chunk in request.stream():
            if chunk:
                parser.write(chunk)
            if reader.waiting >= AT_ONCE:
                await asyncio.to_thread(reader.flush, space)
        await asyncio.to_thread(reader.flush, space)
        parser.finalize()
        if not reader.complete:
            raise Problem(400, "the body is cut off: its last boundary is missing")
        yield reader.form
    except ClientDisconnect:
        raise Problem(400, "the body ended before it was complete") from None
    except FormParserError as error:
        raise Problem(400, f"the body is no multipart/form-data: {error}") from None
    except OSError as error:
        raise Problem(507, f"the upload could not be written: {error.strerror or error}") from error
    finally:
        await asyncio.to_thread(reader.remove)


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise Problem(415, f"the body must be multipart/form-data, not {kind.decode('latin-1')[:100] or 'of no type'}")
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Problem(400, "the Content-Type of the body does not name its boundary")
    return boundary


class _Reader:
    """What a parser tells, as a form. waiting: bytes in memory. complete: whether the last boundary has come."""

    def __init__(self, folder: Path, fields: tuple[str, ...], files: Mapping[str, int]):
        self._folder, self._fields, self._files = folder, fields, files
        self.form, self.waiting, self.complete = Form(), 0, False
        self._headers: dict[str, str] = {}
        self._key, self._value = bytearray(), bytearray()
        self._name, self._text, self._count = "", bytearray(), 0
        self._upload: Upload | None = None
        self._open: io.FileIO | None = None
        self._made = list[tuple[Path, io.FileIO]]()
        self._pending = list[tuple[io.FileIO, bytes]]()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin, "on_header_field": self._header_field, "on_header_value": self._header_value,
            "on_header_end": self._header_end, "on_headers_finished": self._headers_finished,
            "on_part_data": self._data, "on_part_end": self._end, "on_end": self._finished,
        }  # fmt: skip

    def _begin(self) -> None:
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._key.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._key, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get("content-disposition"))
        if kind != b"form-data" or b"name" not in options:
            raise Problem(400, "a part of the form has no name")
        self._name, self._text, self._upload = _text(options[b"name"]), bytearray(), None
        is_file = b"filename" in options
        if self._name not in (*self._fields, *self._files) or is_file != (self._name in self._files):
            what = f"no {'file' if is_file else 'value'} {_shown(self._name)!r}"
            known = f"values {', '.join(self._fields)}, files {', '.join(self._files)}"
            raise Problem(400, f"this form has {what}; it has {known}")
        self._count += 1
        if not is_file:
            if self._count > MOST_FIELDS:
                raise Problem(400, f"a form has {MOST_FIELDS} parts at most")
            return
        uploads = self.form.files.setdefault(self._name, [])
        if len(uploads) >= self._files[self._name]:
            raise Problem(400, f"{self._name}: {self._files[self._name]} at most")
        name = _shown(_text(options[b"filename"]))
        path = self._folder / f"upload-{secrets.token_hex(16)}"
        suffix = Path(name).suffix.lower()
        self._upload = Upload(name, suffix if suffix in AUDIO_SUFFIXES else "", path)
        self._open = io.FileIO(path, "xb")
        self._made.append((path, self._open))
        uploads.append(self._upload)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._upload is None:
            self._text += data[start:end]
            if len(self._text) > MOST_FIELD:
                raise Problem(413, f"{self._name}: a value has {MOST_FIELD} bytes at most")
            return
        assert self._open is not None
        self._pending.append((self._open, data[start:end]))
        self._upload.size += end - start
        self.waiting += end - start

    def _end(self) -> None:
        if self._upload is None:
            try:
                text = self._text.decode()
            except UnicodeDecodeError:
                raise Problem(400, f"{self._name}: its value is not UTF-8") from None
            self.form.fields.setdefault(self._name, []).append(text)

    def _finished(self) -> None:
        self.complete = True

    def flush(self, space: Space) -> None:
        pending, self._pending, count, self.waiting = self._pending, [], self.waiting, 0
        space.took(count)
        for file, data in pending:
            while data:
                data = data[file.write(data) or 0 :]

    def remove(self) -> None:
        for path, file in self._made:
            file.close()
            path.unlink(missing_ok=True)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _shown(name: str) -> str:
    """A name as it may be shown and sent back: without folders, on one line, not too long."""
    name = "".join(c for c in re.split(r"[/\\]", name)[-1] if c.isprintable()).strip()
    if len(name) > LONGEST_NAME:
        stem, dot, suffix = name.rpartition(".")
        end = f".{suffix}" if dot and len(suffix) < 10 else ""
        name = name[: LONGEST_NAME - len(end)] + end
    return name or "audio"
