"""Every model as ONNX: what onnxruntime gives is what PyTorch gives, at sizes that nobody traced."""

import json

import pytest
import torch
from exported_models import GOLDEN, demo_audio, error, graph_of, made, model, run, session, truth

from ussfast import stft
from ussfast.errors import InputError, UssfastError
from ussfast.export import onnx_graph
from ussfast.export.graphs import EXAMPLE, Limits, graphs_of
from ussfast.export.products import AsProducts
from ussfast.export.spectra import Analysis, Synthesis
from ussfast.export.supported import report, unsupported
from ussfast.stft import StftConfig

SIZES = ({"batch": 1, "frames": 1, "sources": 1}, {"batch": 4, "frames": 23, "sources": 5}, {"batch": 3, "frames": 90})
# Of the tiny ones only those that no golden instance stands for, nor the default, nor those that have transforms around
# them below: a graph takes half a minute.
NAMES = ("tuss with sfc", *GOLDEN, "default")
ALL = [(name, "model", "offline") for name in NAMES] + [("default", graph, "step") for graph in ("step", "prompts")]


@pytest.mark.slow
@pytest.mark.parametrize("name, graph, mode", ALL)
def test_onnxruntime_gives_what_pytorch_gives(name, graph, mode, record_property):
    one = made(name, graph, mode)
    ready = session(one.proto)
    for seed, sizes in enumerate(SIZES):
        given = one.graph.example(seed, **sizes)
        assert error(run(ready, one.graph, given), truth(one.graph, given)) <= 1e-4
    traced = [one.graph.size(dim) for dim in one.graph.dims]
    assert traced != [one.graph.size(dim, **SIZES[1]) for dim in one.graph.dims]  # others than those exported with
    assert {node.domain for node in onnx_graph.nodes(one.proto.graph)} == {""}
    record_property("tensorrt", json.dumps(report(one.proto)))  # a report per model, in build/tests.xml
    assert not unsupported(one.proto)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stereo with sfc", "asp", "waveform level"])
def test_audio_in_audio_out(name):
    one, net = made(name, with_stft=True), model(name)
    ready = session(one.proto)
    assert not unsupported(one.proto)
    rate, hop = net.config.sample_rate, net.config.stft.hop
    for seconds in (0.5, 2.3):
        audio = demo_audio(rate, seconds)
        audio = audio[:, : audio.shape[1] // hop * hop]
        audio = torch.stack((audio, audio.flip(1)), 1) if net.channels == 2 else torch.cat((audio, audio.flip(1)))
        given = {"audio": audio.contiguous()}
        if net.prompt_size:
            given["prompts"] = torch.randn(len(audio), 2, net.prompt_size)
        with torch.no_grad():
            wanted = net.separate(audio, given.get("prompts"))
        assert error(run(ready, one.graph, given), {"out": wanted}) <= 1e-4


CONFIGS = [
    StftConfig(128, 64, 128),
    StftConfig(128, 32, 100, window="hann", padding="reflect", normalize="default"),
    StftConfig(96, 20, 96, window="hann", padding="reflect", normalize="window", drop_last_frame=True),
    StftConfig(128, 48, 96, padding="zero"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_transforms_as_products_are_the_transforms(config):
    audio = torch.randn(2, config.hop * 17)
    wanted = stft.analyze(audio, config)
    spec = Analysis(config)(audio)
    assert error({"spec": spec}, {"spec": torch.view_as_real(wanted)}) <= 2e-6
    spectra = torch.view_as_real(stft.drop_frame(wanted, config)).unflatten(0, (1, 2)) * torch.randn(1, 2, 1, 1, 1)
    found, truth = Synthesis(config)(spectra, audio.shape[1]), stft.synthesize(spectra, config, audio.shape[1])
    # Where windows end, both divide by next to nothing.
    sure = slice(config.n_fft, -config.n_fft)
    assert error({"audio": found[..., sure]}, {"audio": truth[..., sure]}) <= 5e-6


def test_casts_that_change_nothing_are_not_traced():
    x = torch.ones(2)
    with AsProducts():
        assert x.float() is x and x.to(torch.float32) is x
        assert x.to(torch.float64).dtype == torch.float64 and x.double().float().dtype == torch.float32


@pytest.mark.slow
def test_a_stream_of_steps_is_the_whole():
    net, ask, one = model("default"), made("default", "prompts", "step"), made("default", "step", "step")
    prompts = net.prompts[:2].detach()[None]
    hop, rate = net.config.stft.hop, net.config.sample_rate
    audio = demo_audio(rate, 2.0)
    audio = audio[:, : audio.shape[1] // hop * hop]
    asked = run(session(ask.proto), ask.graph, {"prompts": prompts.contiguous()})
    ready = session(one.proto)
    given = {k: torch.zeros_like(v[:1] if k != "overlap" else v[:1, :2]) for k, v in one.graph.example().items()}
    given |= asked
    pieces = []
    late = net.config.latency_samples - hop
    for piece in torch.cat((audio, torch.zeros(1, late)), 1).split(hop, 1):
        found = run(ready, one.graph, given | {"audio": piece.contiguous()})
        pieces.append(found["out"])
        given |= {before: found[after] for before, after in one.graph.state}
    with torch.no_grad():
        wanted = net.separate(audio, prompts[0])
    assert error({"out": torch.cat(pieces, -1)[..., late:]}, {"out": wanted}) <= 1e-4


def test_a_prompt_made_after_the_export():
    """Nothing of prompts is in the graph: any vector may be given, such as one that was tuned."""
    one, net = made("tuss_tiny"), model("tuss_tiny")
    ready = session(one.proto)
    given = one.graph.example(batch=1, sources=1)
    tuned = net.prompts[:1].detach()[None] + 0.3 * torch.randn(1, 1, net.prompt_size)
    outs = [run(ready, one.graph, given | {"prompts": vector})["masks"] for vector in (tuned, tuned + 0.5)]
    with torch.no_grad():
        wanted = net(torch.view_as_complex(given["spec"]), tuned)
    assert error({"masks": outs[0]}, {"masks": wanted}) <= 1e-4
    assert not torch.allclose(outs[0], outs[1], rtol=1e-3)


def test_the_model_is_left_as_it_was():
    net = model("default")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    onnx_graph.to_onnx(graph_of("default", "prompts", "step"))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.requires_grad for n, p in net.named_parameters() if not n.startswith("query_encoder.described"))


def test_modes_that_a_model_has_not():
    limits = Limits()
    for name, mode, words in (
        ("tuss", "step", "only causal models"),
        ("cnn14_tiny", "step", "detectors have no mode step"),
        ("tuss", "live", "mode must be one of offline, step"),
    ):
        with pytest.raises(InputError, match=words):
            graphs_of(model(name), mode, limits)
    with pytest.raises(InputError, match="leave --with-stft out"):
        graphs_of(model("causal"), "offline", limits, with_stft=True)
    for wrong in ({"seconds": 0.0}, {"seconds": 1e9}, {"prompts": 0}, {"batch": 10_000}):
        with pytest.raises(InputError, match="must be from"):
            Limits(**wrong)


def test_foreign_operators_and_hidden_state_are_refused():
    from onnx import TensorProto, helper

    def proto(domain, initial):
        node = helper.make_node("Relu", ["x"], ["y"], domain=domain)
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
        values = [helper.make_tensor("x", TensorProto.FLOAT, [1], [0.0])] if initial else []
        return helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], values))

    onnx_graph.check(proto("", False))
    with pytest.raises(UssfastError, match="not standard ONNX: com.microsoft::Relu"):
        onnx_graph.check(proto("com.microsoft", False))
    with pytest.raises(UssfastError, match="a state that hosts would not see: .'x'"):
        onnx_graph.check(proto("", True))


def test_examples_keep_to_the_bounds():
    graph = graphs_of(model("tuss"), "offline", Limits(1.0, 2, 1), with_stft=True)[0]
    assert graph.dims["batch"] == (1, 1) and graph.size("batch", batch=7) == 1
    assert graph.size("sources", sources=9) == 2 and graph.size("sources") == min(EXAMPLE["sources"], 2)
    least, most = graph.dims["samples"]
    hop = model("tuss").config.stft.hop
    for wanted in (1, 1000, 10**6):
        size = graph.size("samples", samples=wanted)
        assert least <= size <= most and size % hop == 0
