"""Whether tensors are what a graph takes."""

from collections.abc import Mapping

from torch import Tensor

from ussfast.checkpoints.exported import GraphFile
from ussfast.errors import InputError


def sizes_of(graph: GraphFile, inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """The named dimensions of these inputs; InputError where tensors or their sizes do not fit together."""
    sizes: dict[str, int] = {}
    for port in graph.inputs:
        tensor = inputs.get(port.name)
        if tensor is None or tensor.dim() != len(port.shape):
            got = "nothing" if tensor is None else str(list(tensor.shape))
            raise InputError(f"the graph needs {port.name} {list(port.shape)}, got {got}")
        for name, size in zip(port.shape, tensor.shape, strict=True):
            wanted = name if isinstance(name, int) else sizes.setdefault(name, size)
            if size != wanted:
                raise InputError(f"the graph needs {port.name} {list(port.shape)}, got {list(tensor.shape)}")
    return sizes


def check_sizes(graph: GraphFile, inputs: Mapping[str, Tensor]) -> None:
    """InputError for more, or less, than the graph was exported for."""
    for name, size in sizes_of(graph, inputs).items():
        least, most = graph.dims.get(name, (1, size))
        if not least <= size <= most:
            raise InputError(f"{graph.file} takes {least} to {most} {name}, got {size}: export it with other limits")
