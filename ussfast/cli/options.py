"""Options that several commands share."""

from typing import Annotated

import typer

from ussfast.checkpoints.names import embedded, glance
from ussfast.prompts.tasks import TASKS, described


def _names_of_default() -> str:
    """What to say about the prompts of the embedded default, if there is one."""
    directory = embedded().get("default")
    found = glance(directory, "default") if directory else None
    return f" The default model knows {', '.join(found.prompts)}." if found else ""


def _model_names() -> list[str]:
    return list(embedded())


def _task_names() -> list[str]:
    return list(TASKS)


_MODELS = ", ".join(dict.fromkeys(("default", *embedded())))
_TASKS = "; ".join(f"{name} ({described(name)})" for name in TASKS)

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help=f"{_MODELS}, a model directory, or owner/name on the Hub.", autocompletion=_model_names
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", "-p", help=f"A sound to separate; repeat for more, or a,b.{_names_of_default()}"),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="NAME",
        help=f"Prompts by purpose, and after -> the stems that are kept of them, in place of -p: {_TASKS}.",
        autocompletion=_task_names,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or int8 (CPU, not for causal models).")]
Backend = Annotated[str, typer.Option(help="auto, native or reference.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
