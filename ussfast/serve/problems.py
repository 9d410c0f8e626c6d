"""Errors as callers meet them: RFC 9457's application/problem+json, one sentence that says what would be right."""

from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

from ussfast.errors import AudioError, InputError, OutputError, UssfastError

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """status: of HTTP. detail: for people. retry_after: in seconds, where trying again makes sense."""

    def __init__(self, status: int, detail: str, retry_after: float | None = None):
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after

    def as_dict(self) -> dict[str, Any]:
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}

    @property
    def headers(self) -> dict[str, str]:
        found = {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def response(self) -> Response:
        return JSONResponse(self.as_dict(), self.status, self.headers, MEDIA_TYPE)


def problem_of(error: BaseException) -> Problem:
    """What an exception is for a caller: never more of our own bugs than that there is one."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, AudioError):
        return Problem(422, str(error))
    if isinstance(error, InputError):
        return Problem(400, str(error))
    if isinstance(error, OutputError):
        return Problem(507, str(error))
    if isinstance(error, UssfastError):
        return Problem(500, str(error))
    return Problem(500, "something went wrong in the server; its log says what")
