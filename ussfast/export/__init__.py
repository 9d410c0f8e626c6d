"""Models as graphs for other runtimes: ONNX, TensorRT engines, packages of AOTInductor.

`export_onnx` writes a directory that `Separator(DIR, backend="onnx")` runs, and hosts in any language.
"""

from ussfast.export.aoti import export_aoti
from ussfast.export.graphs import MODES, Graph, Limits, graphs_of
from ussfast.export.trt import build_engines
from ussfast.export.writing import export_onnx

__all__ = ["MODES", "Graph", "Limits", "build_engines", "export_aoti", "export_onnx", "graphs_of"]
