"""The page: static files with the headers that keep it to itself."""

import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from starlette.responses import FileResponse, Response

PAGE = Path(__file__).parent / "page"
EXAMPLE = Path(__file__).parents[1] / "demo" / "mixture.flac"
# The one style sheet that wavesurfer.js writes into its shadow roots, at the page's height of waveforms.
WAVESURFER_STYLE = "sha256-XGW/cX2BkTPWNNT3NdyASrPEWZfPnKdPJaJ2aN7R+v8="
# Every visit asks whether a file changed: a new version of the server never meets half of the old page.
FRESH = {"Cache-Control": "no-cache"}


def add_page(app: FastAPI) -> None:
    """Routes `/` and `/page/...`; no token is needed for them, as they hold nothing but the page."""

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return FileResponse(PAGE / "index.html", headers=FRESH | policies(request.headers.get("host", "")))

    @app.get("/page/example.flac", include_in_schema=False)
    async def example() -> Response:
        return FileResponse(EXAMPLE, headers=FRESH)

    app.mount("/page", PageFiles(directory=PAGE), name="page")


class PageFiles(StaticFiles):
    """Files of the page, asked for again at every visit."""

    def file_response(self, *args: Any, **settings: Any) -> Response:
        response = super().file_response(*args, **settings)
        response.headers.update(FRESH | {"X-Content-Type-Options": "nosniff"})
        return response


def policies(host: str) -> dict[str, str]:
    """Headers of the page: nothing from elsewhere, nothing inline, in nobody's frame.

    host: as the browser called it. WebSockets of the same server are named: not every browser takes them for 'self'.
    """
    sockets = f" ws://{host} wss://{host}" if re.fullmatch(r"[\w.\-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?", host) else ""
    rules = (
        "default-src 'none'", "script-src 'self'", f"style-src 'self' '{WAVESURFER_STYLE}'",
        "img-src 'self' data: blob:", "media-src 'self' blob:", f"connect-src 'self'{sockets}", "base-uri 'none'",
        "form-action 'none'", "frame-ancestors 'none'",
    )  # fmt: skip
    return {
        "Content-Security-Policy": "; ".join(rules),
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
