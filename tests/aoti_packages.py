"""Tiny models as packages of AOTInductor, compiled within seconds."""

import os
from unittest import mock

import torch
from torch._inductor import config

from ussfast.export import Limits
from ussfast.export.aoti import export_aoti
from ussfast.ops import use_reference

LIMITS = Limits(seconds=1.0, prompts=4, batch=3)


def packages(folder, model):
    """An export of the model under `folder`, which keeps what the compiler leaves behind, too."""
    # What instructions there are is known without compiling a program for each kind.
    known = config.patch({"cpp.vec_isa_ok": True, "aot_inductor.compile_wrapper_opt_level": "O0"})
    with known, mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(folder / "inductor")):
        export_aoti(model, folder / "export", limits=LIMITS, name="tiny")
    return folder / "export"


def wanted(graph, inputs):
    """What PyTorch computes for a graph, by name."""
    with torch.inference_mode(), use_reference():
        found = graph.network(*inputs.values())
    return dict(zip(graph.outputs, found if isinstance(found, tuple) else (found,), strict=True))


def equal(found, expected, tolerance=1e-4):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert (found[name] - value).abs().max() <= tolerance * value.abs().max(), name
