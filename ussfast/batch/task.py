"""What is done with every file of a collection, and what is told of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ussfast.audio import OutputFormat, probe
from ussfast.batch.listing import Item
from ussfast.batch.places import Place
from ussfast.errors import UssfastError

if TYPE_CHECKING:
    from ussfast.separator import Separator

DONE, SKIPPED, FAILED = "done", "skipped", "failed"
Progress = Callable[[float, float | None], None]


@dataclass(frozen=True)
class Task:
    """How files are separated.

    output: folder of all stems, a path or an address. prompts, template, residual, stems, format: as for
    `Separator.separate_file`. redo: also what is complete.
    """

    output: str
    prompts: tuple[str, ...]
    template: str
    residual: bool
    stems: tuple[str, ...] | None
    format: OutputFormat
    redo: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """For `Separator.separate_file`."""
        return {
            "prompts": self.prompts, "template": self.template, "residual": self.residual, "stems": self.stems,
            "format": self.format,
        }  # fmt: skip


@dataclass
class Row:
    """What became of a file.

    status: "done", "skipped" (it was complete) or "failed".
    outputs: path or address of each stem, by label; none after an error.
    seconds: of audio; None after an error.
    fingerprint: SHA-256 of the input's content; None after an error.
    exit_code: of the error, 0 without one.
    """

    input: str
    status: str
    outputs: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None
    fingerprint: str | None = None
    warnings: tuple[str, ...] = ()
    exit_code: int = 0

    @classmethod
    def failed(cls, source: str, error: str, exit_code: int) -> "Row":
        return cls(source, FAILED, error=error, exit_code=exit_code)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the report."""
        row = {name: getattr(self, name) for name in ("input", "outputs", "seconds", "status", "error", "fingerprint")}
        return row | {"warnings": list(self.warnings)}


def separate_item(separator: "Separator", task: Task, item: Item, progress: Progress | None = None) -> Row:
    """Separates a file, unless it is complete; an error is a row, too. What `progress` raises passes through."""
    if item.error is not None:
        return Row.failed(item.source, item.error, item.exit_code)
    try:
        source, output = Place(item.source), Place(task.output)
        if not (source.local and output.local):
            from ussfast.batch.carrying import separate_elsewhere

            return separate_elsewhere(separator, task, item, source, output, progress)
        return _separate_here(separator, task, item, source.path, output.path, progress)
    except UssfastError as error:
        return Row.failed(item.source, str(error), error.exit_code)
    except Exception as error:  # a fault of ours is no reason to leave the other files alone
        what = UssfastError(f"{item.source}: failed unexpectedly: {type(error).__name__}: {error}")
        return Row.failed(item.source, str(what), what.exit_code)


def _separate_here(
    separator: "Separator", task: Task, item: Item, path: str, output: str, progress: Progress | None
) -> Row:
    written = separator.separate_file(
        Path(path), Path(output, item.folder), name=item.name, skip_existing=not task.redo, progress=progress,
        **task.options,
    )  # fmt: skip
    skipped = written.seconds is None
    seconds = probe(Path(path)).seconds if skipped else written.seconds
    outputs = dict(zip(labels_of(separator, task), map(str, written), strict=True))
    return Row(
        item.source, SKIPPED if skipped else DONE, outputs, seconds, fingerprint=written.fingerprint,
        warnings=written.warnings,
    )  # fmt: skip


def labels_of(separator: "Separator", task: Task) -> tuple[str, ...]:
    """Of the stems that are written, in order. Raises PromptError and InputError."""
    from ussfast.separation import choose, output_labels

    found = separator.labels(task.prompts)
    chosen, residual = choose(found, task.residual, task.stems)
    return output_labels([found[i] for i in chosen], residual)
