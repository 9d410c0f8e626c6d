"""Models exported once for all tests of a run, with the graphs that they were exported as."""

import copy
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import onnx
import torch
from golden_detectors import golden_detector
from golden_io import golden_model
from golden_sfc import WHOLE, sfc_model
from tiny import ASP, CAUSAL, STEREO, TUSS, TUSS_SFC, tiny_model

from ussfast.checkpoints import store
from ussfast.export.graphs import Graph, Limits, graphs_of
from ussfast.export.onnx_graph import to_onnx

TINY = {
    "tuss": TUSS,
    "tuss with sfc": TUSS_SFC,
    "stereo with sfc": STEREO,
    "asp": ASP,
    "causal": CAUSAL,
    # The highest bin of ASP U-Net is padded, levels of waveforms differ in where they are measured.
    "waveform level": replace(TUSS, level=replace(TUSS.level, domain="waveform")),
}
GOLDEN = (
    "tuss_tiny", "bslocoformer_tiny", "tflocoformer_tiny", WHOLE,
    "zeroshot_unet_tiny", "htsat_tiny", "cnn14_tiny", "cnn14_dlmax_tiny",
)  # fmt: skip
SHARED = "USSFAST_TESTS_EXPORTED"  # where the processes of a run leave each other what they exported
LIMITS = Limits(seconds=4.0, prompts=5, batch=4)


@cache
def model(name):
    if name in TINY:
        return tiny_model(TINY[name]).eval()
    if name == "default":
        return store.load_model(store.resolve("default"))[0]
    if name == "weak":  # a small ASP U-Net that was trained
        return store.load_model(Path(__file__).parents[2] / "training" / "weak")[0]
    if name.startswith(("htsat", "cnn14")):
        return golden_detector(name)
    return sfc_model(name) if name.startswith("sfc") else golden_model(name)


@dataclass
class Made:
    graph: Graph
    proto: object

    def copy(self):
        return copy.deepcopy(self.proto)


def graph_of(name, graph="model", mode="offline", with_stft=False):
    return {one.name: one for one in graphs_of(model(name), mode, LIMITS, with_stft)}[graph]


def made(name, graph="model", mode="offline", with_stft=False):
    """A graph of a model, and the ONNX that it became: once per run, in whichever of its processes comes first."""
    return _made(name, graph, mode, with_stft)


@cache
def _made(*which):
    found = graph_of(*which)
    shared = Path(os.environ[SHARED], "-".join(map(str, which)) + ".onnx") if SHARED in os.environ else None
    if shared is not None and shared.is_file():
        return Made(found, onnx.load(shared))
    proto = to_onnx(found)
    if shared is not None:
        part = shared.with_suffix(f".{os.getpid()}")
        onnx.save(proto, part)
        os.replace(part, shared)
    return Made(found, proto)


def session(proto):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options)


def run(session, graph, given):
    found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    return {name: torch.from_numpy(value) for name, value in zip(graph.outputs, found, strict=True)}


def truth(graph, given):
    """What PyTorch gives."""
    with torch.no_grad():
        found = graph.network(*given.values())
    return dict(zip(graph.outputs, found if isinstance(found, tuple) else (found,), strict=True))


def error(found, wanted):
    """The distance of any output from what it should be, over its norm: the worst one's.

    Not the largest difference: random weights make single values of some instances so sensitive that float32 itself,
    whoever computes, is off by 1e-4 of the largest one.
    """
    assert list(found) == list(wanted)
    assert all(found[name].shape == wanted[name].shape for name in wanted)
    return max(float((found[n] - v).norm() / v.norm().clamp(min=1e-9)) for n, v in wanted.items())


def demo_audio(rate, seconds):
    """[1, samples] of the recording that the demo separates."""
    from ussfast import demo
    from ussfast.audio import load

    audio = load(Path(demo.__file__).parent / "mixture.flac", None, rate)[0]
    return torch.from_numpy(audio[:1, : round(seconds * rate)].copy())


def sdr(found, wanted):
    """Signal to distortion in dB, the worst source of [batch, sources, ...]."""
    rows, kept = (found - wanted).flatten(2).double(), wanted.flatten(2).double()
    return float((10 * torch.log10(kept.square().sum(-1) / rows.square().sum(-1).clamp(min=1e-30))).min())
