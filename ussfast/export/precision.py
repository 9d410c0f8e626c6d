"""Graphs whose weights and products have a lower precision, by casts inside: strongly typed, without flags."""

from typing import Any

from ussfast.export.graphs import Graph


def lowered(proto: Any, graph: Graph, precision: str) -> Any:
    return proto
