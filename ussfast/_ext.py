"""Loads the kernels behind the ops, and tells which ones are in use and why others are not.

Importing ussfast.ops calls load() with its ops; before that, nothing here knows of any.
"""

import importlib
import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ussfast.errors import InputError

_HERE = Path(__file__).parent
_DISPATCH_KEYS = {"cpu": "CPU", "cuda": "CUDA"}

# Ops with a CUDA kernel in C++, and its name: it may be one that the op's Triton launcher calls.
_CUDA_CPP = {"framed_stft": "framed_stft", "stft_mask": "_masked_istft"}

# Why a device runs the reference: filled by load(), read by kernels(). No entry: native kernels are loaded. CUDA has
# two kinds of kernels, and also entries for one of them alone, "cuda c++" and "triton".
_why_reference: dict[str, str] = {}
_ops: list[str] = []  # their names, from load()


def _build_reason(part: str = "the C++ extension", key: str = "why_not") -> str:
    try:
        info = json.loads((_HERE / "_build_info.json").read_text())
    except (OSError, ValueError):
        return f"{part} was never built (pip install --no-build-isolation -e .)"
    return f"{part} was not built: {info.get(key) or info.get('why_not') or 'its file is gone, build again'}"


def _load_library(pattern: str) -> str | None:
    """Loads the one library of this name; returns why it could not, "" if there is none."""
    found = sorted(_HERE.glob(pattern))
    if not found:
        return ""
    try:
        torch.ops.load_library(str(found[0]))
    except OSError as error:
        return f"{found[0].name} does not load, build it again for torch {torch.__version__}: {error}"
    return None


def _load_cpu() -> str | None:
    """Loads the C++ extension; returns why it could not."""
    reason = _load_library("_C.*so")
    if reason is not None:
        return reason or _build_reason()
    try:
        torch.ops.ussfast._cpu_isa()
    except RuntimeError as error:  # USSFAST_FORCE_ISA asks for something this CPU cannot do
        raise InputError(str(error).splitlines()[0]) from None
    return None


def _load_cuda(library: torch.library.Library, gradients: dict[str, Any]) -> str | None:
    """Registers the CUDA kernels, in C++ and in Triton; returns why it could not do so with either."""
    if not torch.cuda.is_available():
        return "no CUDA device" if torch.version.cuda else "this torch is built without CUDA"
    reason = _load_library("_C_cuda.*so")
    if reason is not None:
        _why_reference["cuda c++"] = reason or _build_reason("the CUDA part of the C++ extension", "why_not_cuda")
    try:
        importlib.import_module("triton")
    except ImportError as error:
        _why_reference["triton"] = f"triton cannot be imported: {error}"
    else:
        _register_triton(library, gradients)
    return None


def _has_triton(op: str) -> bool:
    return importlib.util.find_spec(f"ussfast.ops._triton.{op}") is not None


def _register_triton(library: torch.library.Library, gradients: dict[str, Any]) -> None:
    for name in filter(_has_triton, _ops):
        module = importlib.import_module(f"ussfast.ops._triton.{name}")
        library.impl(name, getattr(module, name), "CUDA")
        if hasattr(module, f"{name}_backward"):
            gradients[name] = getattr(module, f"{name}_backward")


def load(ops: Iterable[str], library: torch.library.Library, gradients: dict[str, Any], implementation: str) -> None:
    """Loads every kernel there is; called once, by `import ussfast.ops`.

    Args:
        ops: names of all; library: they are defined in.
        gradients: gets the backward passes of CUDA kernels, by op.
        implementation: "native", or "reference" to load none.
    Raises:
        ImportError: the C++ extension is missing and FAIL_WITHOUT_EXT=1 (set in tests, so that a broken build
            is red instead of a silent fallback).
        InputError: USSFAST_FORCE_ISA names an instruction set that does not exist or that this CPU lacks.
    """
    _ops.extend(ops)
    if implementation == "reference":
        _why_reference.update(dict.fromkeys(_DISPATCH_KEYS, "USSFAST_IMPL=reference"))
        return
    for device, loader in (("cpu", _load_cpu), ("cuda", lambda: _load_cuda(library, gradients))):
        reason = loader()
        if reason:
            _why_reference[device] = reason
    if os.environ.get("FAIL_WITHOUT_EXT") == "1" and "cpu" in _why_reference:
        raise ImportError(f"FAIL_WITHOUT_EXT=1: {_why_reference['cpu']}")


def cpu_isa() -> str | None:
    """Instruction set of the C++ kernels (generic, avx2 or avx512), or None where they are not loaded."""
    assert _ops, "ussfast.ops has not been imported"
    return None if "cpu" in _why_reference else torch.ops.ussfast._cpu_isa()


def kernels() -> list[dict[str, Any]]:
    """Which kernel runs each op on each device.

    Returns:
        One dict per op and device: op, device ("cpu" or "cuda"), kernel ("c++ avx512", "triton", "cuda c++", "triton,
        cuda c++" for what fits the one in C++ and the rest in Triton, or "reference") and why (why the kernel is the
        reference, or why a kernel in CUDA C++ that the op has is not used; else "").
    """
    return [{"op": name, "device": device} | _kernel(name, device) for name in _ops for device in _DISPATCH_KEYS]


def _kernel(op: str, device: str) -> dict[str, str]:
    if device == "cpu":
        kernel, why = f"c++ {cpu_isa()}", ""
    else:
        kernel, why = _cuda_kernel(op)
    if not _registered(op, device):
        why = _why_reference.get(device) or why or "no kernel written for this device"
        kernel = "reference"
    return {"kernel": kernel, "why": why}


def _registered(name: str, device: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"ussfast::{name}", _DISPATCH_KEYS[device])


def _cuda_kernel(op: str) -> tuple[str, str]:
    """The kinds of kernels that this op has on CUDA, and why those that it could have are missing."""
    kinds, why = [], []
    for kind, written, there in (
        ("triton", _has_triton(op), _registered(op, "cuda")),
        ("cuda c++", op in _CUDA_CPP, _registered(_CUDA_CPP.get(op, op), "cuda")),
    ):
        if written and there:
            kinds.append(kind)
        elif written and kind in _why_reference:
            why.append(_why_reference[kind])
    return ", ".join(kinds), "; ".join(why)
