"""`ussfast serve`. Heavy imports happen inside."""

import importlib.util
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ussfast.cli.options import Device, Dtype, Model, QueryDetector
from ussfast.errors import InputError

NEEDED = ("fastapi", "uvicorn", "pydantic_settings", "prometheus_client", "python_multipart", "websockets")


class LogLevel(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="To listen on; 127.0.0.1 if not given.")] = None,
    port: Annotated[int | None, typer.Option(help="To listen on; 8400 if not given, 0 for any that is free.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of jobs, prompts and streams; in your home if not given.")
    ] = None,
    model: Model = "default",
    detector: QueryDetector = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Of the CPU, each with live streams of its own; half of the cores if not given.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes for files and prompts; 1 if not given.")] = None,
    max_streams: Annotated[int | None, typer.Option(help="Live streams at once, at most.")] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="info if not given.")] = None,
) -> None:
    """Serve live streams, files and prompts over HTTP and WebSockets, with a page to try them.

    All settings are variables, too: USSFAST_SERVE_TOKEN, USSFAST_SERVE_PORT and so on; options win. Without a token
    only this machine may call. SIGTERM and Ctrl-C end the server once what is under way is done.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(f"serving needs {', '.join(missing)}: pip install 'ussfast[serve]'")
    given = {name: value for name, value in context.params.items() if _is_given(context, name)}
    if log_level is not None:
        given["log_level"] = log_level.value

    from ussfast.serve.settings import settings_of

    settings = settings_of(given)  # what is wrong with them shows before all else is loaded

    from ussfast.serve.running import run

    run(settings)


def _is_given(context: Any, name: str) -> bool:
    """Whether an option was written, so that its default does not take the place of a variable."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
