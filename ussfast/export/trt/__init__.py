"""TensorRT engines of exported models."""

from ussfast.export.trt.build import BuiltEngine, build_engines, verify_engines

__all__ = ["BuiltEngine", "build_engines", "verify_engines"]
