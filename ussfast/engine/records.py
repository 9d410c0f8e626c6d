"""What stems were made of: a small hidden file beside them tells a later run whether it would make the same."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ussfast.audio import atomic_write
from ussfast.audio.formats import FileSettings
from ussfast.engine.engine import Engine
from ussfast.errors import AudioError, OutputError
from ussfast.models import SpectralModel, architecture_of
from ussfast.models.config import to_dict
from ussfast.prompts.bank import Plan

FORMAT, VERSION = "ussfast-stems", 1
_PIECE = 1 << 16  # bytes

_known: WeakKeyDictionary[SpectralModel, tuple[list, str]] = WeakKeyDictionary()
_knowing = Lock()


class Record:
    """What is to be known of the stems of one input.

    Args:
        source: the input, which has to be there: a path, or what stands for a copy of an open file.
        paths: of the stems.
        labels: of the stems.
        made: what they are made of, see `made_of`.
    Raises:
        AudioError: the input cannot be read.
    """

    def __init__(self, source: os.PathLike[str], paths: Sequence[Path], labels: Sequence[str], made: dict[str, Any]):
        self._source, self._paths, self._labels, self._made = source, paths, labels, made
        self._input = _identified(source)
        folder = paths[0].parent
        self._names = [os.path.relpath(path, folder) for path in paths]
        self.path = folder / record_name(self._names)

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the input's content, once it is known: the record was written, or holds."""
        return self._input.get("sha256")

    def holds(self) -> bool:
        """Whether the stems that are there were made of the same, and are as they were when they were written.

        An input of another time, as a copy has, is the same if its content is; the record has its time from then on.
        """
        try:
            there = json.loads(self.path.read_bytes())
            mine, theirs = self._content(), dict(there)
            own, other = mine.pop("input"), dict(theirs.pop("input"))
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            return False
        content = other.pop("sha256", None) if "sha256" not in own else own["sha256"]
        if mine != theirs:
            return False
        if own == other:
            if content is not None:
                self._input["sha256"] = content
            return True
        if content is None or own | {"mtime_ns": 0} != other | {"mtime_ns": 0} or content != self._hash():
            return False
        with suppress(OutputError):  # the next time would only have to look at all content again
            self.write()
        return True

    def write(self) -> None:
        """For when the stems are complete. Raises OutputError."""
        self._hash()
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self._content(), indent=1) + "\n")

    def _hash(self) -> str | None:
        """SHA-256 of all content; None where it can no longer be that of the file that was identified."""
        if "sha256" not in self._input:
            try:
                with open(self._source, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                    same = self._input.items() >= _facts(os.fstat(file.fileno())).items()
            except OSError:
                return None
            if same:
                self._input["sha256"] = content
        return self.fingerprint

    def _content(self) -> dict[str, Any]:
        stems = [
            {"label": label, "file": name} | _facts(os.stat(path))
            for label, name, path in zip(self._labels, self._names, self._paths, strict=True)
        ]
        content = {"format": FORMAT, "version": VERSION, **self._made, "input": self._input, "stems": stems}
        return json.loads(json.dumps(content))  # as it is read


def record_name(names: Sequence[str]) -> str:
    """Of the record beside stems of these names: other stems in the same folder have a record of their own."""
    key = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:16]
    return f".ussfast.{key}.json"


def made_of(engine: Engine, plan: Plan, files: Sequence[FileSettings]) -> dict[str, Any]:
    """All that stems depend on besides the input: model, prompts, settings. Devices and batches are rounding only."""
    vectors = [None] * len(plan.labels) if plan.vectors is None else [_digest([vector]) for vector in plan.vectors]
    settings = {"precision": engine.precision, "linked": engine.linked, "remix": asdict(engine.remix)}
    return {
        "model": fingerprint(engine.model),
        "prompts": [list(pair) for pair in zip(plan.labels, vectors, strict=True)],
        "settings": settings | {"policy": asdict(engine.policy)},
        "files": [asdict(file) for file in files],
    }


def fingerprint(model: SpectralModel) -> str:
    """SHA-256 of a model's configuration and weights, wherever they come from."""
    state = model.state_dict()
    # The counters tell of weights that were changed in place.
    counted = [(key, v.data_ptr(), v._version) for key, v in state.items() if not v.is_inference()]
    with _knowing:
        known = _known.get(model)
        if known is None or known[0] != counted or len(counted) < len(state):
            config = json.dumps([architecture_of(model.config), to_dict(model.config), list(state)], sort_keys=True)
            known = counted, _digest(state.values(), config)
            _known[model] = known
        return known[1]


def _digest(tensors: Any, text: str = "") -> str:
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def _facts(status: os.stat_result) -> dict[str, int]:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _identified(path: os.PathLike[str]) -> dict[str, Any]:
    """What soon tells a file from others: size, time, and what is in its beginning, middle and end.

    Time alone would not do: files of a data set can all have the same, and the same size. Of a copy of an open file,
    which has a time of its own, all content.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not isinstance(path, Path):
                return {"size": status.st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
            for start in (0, status.st_size // 2, max(0, status.st_size - _PIECE)):
                file.seek(start)
                digest.update(file.read(_PIECE))
    except OSError as error:
        raise AudioError(f"{path}: could not be read: {error.strerror}") from error
    return _facts(status) | {"sample": digest.hexdigest()}
