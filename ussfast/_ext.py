"""Loads the kernels behind the ops, and tells which ones are in use and why others are not.

Importing ussfast.ops calls load(). Imports of ussfast.ops in here are local, so that either may come first.
"""

import importlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import torch

from ussfast.errors import InputError

_HERE = Path(__file__).parent
_DISPATCH_KEYS = {"cpu": "CPU", "cuda": "CUDA"}

# Why a device runs the reference: filled by load(), read by kernels(). No entry: native kernels are loaded.
_why_reference: dict[str, str] = {}


def _build_reason() -> str:
    try:
        info = json.loads((_HERE / "_build_info.json").read_text())
    except (OSError, ValueError):
        return "the C++ extension was never built (pip install --no-build-isolation -e .)"
    return f"the C++ extension was not built: {info.get('why_not') or 'its file is gone, build again'}"


def _load_cpu() -> str | None:
    """Loads the C++ extension; returns why it could not."""
    found = sorted(_HERE.glob("_C*.so"))
    if not found:
        return _build_reason()
    try:
        torch.ops.load_library(str(found[0]))
    except OSError as error:
        return f"{found[0].name} does not load, build it again for torch {torch.__version__}: {error}"
    try:
        torch.ops.ussfast._cpu_isa()
    except RuntimeError as error:  # USSFAST_FORCE_ISA asks for something this CPU cannot do
        raise InputError(str(error).splitlines()[0]) from None
    return None


def _load_cuda() -> str | None:
    """Registers the Triton launchers as CUDA kernels; returns why it could not."""
    if not torch.cuda.is_available():
        return "no CUDA device" if torch.version.cuda else "this torch is built without CUDA"
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    from ussfast.ops._op import GRADIENTS, LIB, OPS

    for name in OPS:
        if importlib.util.find_spec(f"ussfast.ops._triton.{name}"):
            module = importlib.import_module(f"ussfast.ops._triton.{name}")
            LIB.impl(name, getattr(module, name), "CUDA")
            if hasattr(module, f"{name}_backward"):
                GRADIENTS[name] = getattr(module, f"{name}_backward")
    return None


def load() -> None:
    """Loads every kernel there is; called once, by `import ussfast.ops`.

    Raises:
        ImportError: the C++ extension is missing and FAIL_WITHOUT_EXT=1 (set in tests, so that a broken build
            is red instead of a silent fallback).
        InputError: USSFAST_FORCE_ISA names an instruction set that does not exist or that this CPU lacks.
    """
    from ussfast.ops._op import IMPL

    if IMPL == "reference":
        _why_reference.update(dict.fromkeys(_DISPATCH_KEYS, "USSFAST_IMPL=reference"))
        return
    for device, loader in (("cpu", _load_cpu), ("cuda", _load_cuda)):
        reason = loader()
        if reason:
            _why_reference[device] = reason
    if os.environ.get("FAIL_WITHOUT_EXT") == "1" and "cpu" in _why_reference:
        raise ImportError(f"FAIL_WITHOUT_EXT=1: {_why_reference['cpu']}")


def cpu_isa() -> str | None:
    """Instruction set of the C++ kernels (generic, avx2 or avx512), or None where they are not loaded."""
    import ussfast.ops  # noqa: F401

    return None if "cpu" in _why_reference else torch.ops.ussfast._cpu_isa()


def kernels() -> list[dict[str, Any]]:
    """Which kernel runs each op on each device.

    Returns:
        One dict per op and device: op, device ("cpu" or "cuda"), kernel ("c++ avx512", "triton", "reference")
        and why ("" unless the kernel is the reference).
    """
    from ussfast.ops._op import OPS

    rows = []
    for name in OPS:
        for device, key in _DISPATCH_KEYS.items():
            native = torch._C._dispatch_has_kernel_for_dispatch_key(f"ussfast::{name}", key)
            kernel, why = f"c++ {cpu_isa()}" if device == "cpu" else "triton", ""
            if not native:
                kernel, why = "reference", _why_reference.get(device, "no kernel written for this device")
            rows.append({"op": name, "device": device, "kernel": kernel, "why": why})
    return rows
