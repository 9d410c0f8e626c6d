"""Other runtimes that run exported models: one `Runner` each."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

EXPORTED = ("onnx", "trt", "aoti")
"""Names of backends that run a directory of `ussfast.export`."""


class Runner(Protocol):
    """Graphs of one directory, ready to run."""

    def run(self, graph: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All outputs of a graph by name, for all its inputs, float32; they are new tensors.

        Raises:
            CheckpointError: there is no such graph. InputError: sizes beyond what it was exported for.
        """
