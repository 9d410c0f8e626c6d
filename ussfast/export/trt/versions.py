"""What differs between TensorRT 10.5 and 11.x, all of it.

Precision is in the graph: networks are strongly typed, which 10 has to be told and 11 always does. The flags of 10 that
let TensorRT choose a precision (BuilderFlag.FP16 and its kind) are gone in 11, and not used in 10.
"""

from typing import Any

from ussfast.engine.backends.trt_engines import version_of


def create_network(trt: Any, builder: Any) -> Any:
    """An empty, strongly typed network."""
    if version_of(trt) >= (11, 0):  # the flag is still there, deprecated, with another number
        return builder.create_network()
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def fault(error: Any) -> str:
    """One error of the parser as text."""
    where = " ".join(part for part in (error.node_operator(), error.node_name()) if part)
    return " ".join(f"{where}: {error.desc()}".lstrip(": ").split())
