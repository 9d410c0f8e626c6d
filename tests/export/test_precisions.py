"""Graphs of lower precision: what they lose on real audio, and what stays float32 in them."""

import numpy as np
import pytest
import torch
from exported_models import demo_audio, made, model, run, sdr, session

from ussfast.engine.backends._narrow import emulated
from ussfast.errors import InputError
from ussfast.export.calibration import batches
from ussfast.export.precision import lowered


def audio_inputs(name, one, seconds=2.0):
    """Spectra of a recording, and two prompts; what a causal model remembers is silence."""
    net = model(name)
    given = one.graph.example(batch=1, sources=2)
    given = {k: torch.zeros_like(v) if k in dict(one.graph.state) else v for k, v in given.items()}
    audio = demo_audio(net.config.sample_rate, seconds)
    spec = torch.view_as_real(net.analyze(audio)[0])[:, : one.graph.dims["frames"][1]]
    given["spec"] = spec.contiguous()
    if name in ("default", "causal"):
        with torch.no_grad():
            asked = net.condition(net.prompt_vectors(("speech", "sfx"))[None])
        given |= {"scale": asked.scale, "shift": asked.shift}
    elif net.prompt_size:
        own = net.prompt_vectors(net.prompt_names[:2]) if net.prompt_names else torch.randn(2, net.prompt_size)
        given["prompts"] = own.detach()[None].contiguous()
    return given, spec


def estimates(found, spec):
    """Spectra of the sources."""
    masks = torch.view_as_complex(found["masks"].contiguous())
    return torch.view_as_real(masks * torch.view_as_complex(spec.contiguous())[:, None])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["default", "tuss_tiny", "sfc_bslocoformer_tiny", "zeroshot_unet_tiny"])
def test_narrow_products_lose_little(name, precision):
    one = made(name)
    given, spec = audio_inputs(name, one)
    wanted = estimates(run(session(one.proto), one.graph, given), spec)
    # onnxruntime leaves out roundings of fp16 on a CPU, and has no bf16: here both are rounded as a GPU does.
    found = run(session(emulated(lowered(one.copy(), one.graph, precision))), one.graph, given)
    db = sdr(estimates(found, spec), wanted)
    assert 40 <= db < 100  # with as much as 100, nothing was rounded


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tuss_tiny", "zeroshot_unet_tiny"])
def test_int8_loses_more(name):
    one, net = made(name), model(name)
    given, spec = audio_inputs(name, one)
    wanted = estimates(run(session(one.proto), one.graph, given), spec)
    proto = lowered(one.copy(), one.graph, "int8", lambda: batches(net, one.graph))
    kinds = [node.op_type for node in proto.graph.node]
    assert "QuantizeLinear" in kinds and "DequantizeLinear" in kinds
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert 30 <= sdr(estimates(run(session(proto), one.graph, given), spec), wanted) < 80
    # Both zero points are 0, as TensorRT wants them; scales of weights are one per channel.
    tensors = {t.name: t for t in proto.graph.initializer}
    points = [tensors[node.input[2]] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    from onnx import numpy_helper

    assert points and all(not numpy_helper.to_array(point).any() for point in points)
    assert max(numpy_helper.to_array(tensors[n.input[1]]).size for n in proto.graph.node if "Linear" in n.op_type) > 1


def narrow(proto):
    """Names of weights in a lower precision, by the kind of product that takes them."""
    from onnx import TensorProto

    low = {t.name for t in proto.graph.initializer if t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)}
    return {node.op_type for node in proto.graph.node if low & set(node.input)}, low


@pytest.mark.slow
def test_what_stays_float32():
    from onnx import TensorProto

    one = made("causal", "step", "step")
    for precision in ("fp16", "bf16"):
        proto = lowered(one.copy(), one.graph, precision)
        kinds, low = narrow(proto)
        assert "MatMul" in kinds and ("Conv" in kinds) == (precision == "fp16")
        assert not {"into_" + precision, "back_" + precision} & low  # the transforms
        ends = (*proto.graph.input, *proto.graph.output)
        assert {value.type.tensor_type.elem_type for value in ends} == {TensorProto.FLOAT}
        casts = {node.output[0] for node in proto.graph.node if node.op_type == "Cast"}
        for node in proto.graph.node:
            if node.op_type in ("Softmax", "Sqrt", "Exp", "ReduceMean"):
                assert not any(name.endswith(precision) for name in node.input)
            if node.op_type == "MatMul" and not low & set(node.input):
                assert not any(name in casts and name.endswith(precision) for name in node.input)
    # Prompts are computed once.
    asked = made("causal", "prompts", "step")
    assert lowered(asked.copy(), asked.graph, "bf16") == asked.proto


@pytest.mark.slow
def test_weights_that_do_not_fit_into_fp16():
    from onnx import numpy_helper

    one = made("tuss")
    proto = one.copy()
    products = [n for n in proto.graph.node if n.op_type == "MatMul"]
    tensors = {t.name: t for t in proto.graph.initializer}
    name = next(n.input[1] for n in products if n.input[1] in tensors)
    large = numpy_helper.to_array(tensors[name]).copy()
    large.flat[0] = 1e6
    tensors[name].CopyFrom(numpy_helper.from_array(large, name))
    with pytest.raises(InputError, match="does not fit into fp16: use bf16"):
        lowered(proto, one.graph, "fp16")


def test_calibration_is_real_audio(tmp_path):
    import soundfile

    one, net = made("tuss"), model("tuss")
    found = list(batches(net, one.graph))
    assert found and all(list(batch) == list(one.graph.inputs) for batch in found)
    assert all(batch["spec"].shape[1] <= one.graph.dims["frames"][1] for batch in found)
    with pytest.raises(InputError, match="needs audio of at least 3 s"):
        soundfile.write(tmp_path / "silence.wav", np.zeros(8000 * 4), 8000)
        list(batches(net, one.graph, [tmp_path / "silence.wav"]))
    with pytest.raises(InputError, match="not for the causal model"):
        next(batches(model("causal"), one.graph))
    with pytest.raises(InputError, match="--calibration FILE"):
        lowered(one.copy(), one.graph, "int8")
