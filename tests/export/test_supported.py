"""The list of TensorRT's operators against graphs: what is on it, what is not, and what it restricts."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from small_export import model_graph, small_export, step_graph

from ussfast.errors import CheckpointError, InputError
from ussfast.export import supported
from ussfast.export.supported import main, report, reports, table, unsupported
from ussfast.export.supported_rules import CHECKS

F, N, D, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.BOOL


def model(nodes, inputs=(("x", F, [2, 3, 8, 8]),), constants=(), opset=20, outputs=()):
    values = [helper.make_tensor_value_info(*one) for one in inputs]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants]
    graph = helper.make_graph(list(nodes), "g", values, [helper.make_tensor_value_info(*o) for o in outputs], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


IMAGES = (("x", F, [2, 3, 8, 8]),)


def faults(op, *names, constants=(), opset=20, version="10.5", domain="", inputs=IMAGES, **attributes):
    made = ["y", "places"] if op == "TopK" else ["y"]
    node = helper.make_node(op, list(names) or ["x"], made, name="it", domain=domain, **attributes)
    return unsupported(model([node], inputs, constants, opset), version)


@pytest.mark.parametrize("graph", [model_graph, step_graph])
def test_graphs_of_plain_operators_are_supported(graph):
    made = helper.make_model(graph(), opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert unsupported(made) == []
    assert report(made)["operators"]["Unsqueeze"] >= 1


@pytest.mark.parametrize(
    "op, reason",
    [("DFT", "listed as unsupported"), ("Swish", "not on the list"), ("Unique", "listed as unsupported")],
)
def test_operators_that_are_not_on_the_list(op, reason):
    (fault,) = faults(op)
    assert fault.node == "it" and fault.op == op and reason in fault.reason


def test_another_domain_is_named():
    invalid, fault = faults("Gelu", domain="com.microsoft")  # without the domain's opset it is no model
    assert "no valid model" in invalid.reason
    assert fault.op == "com.microsoft::Gelu" and "domain com.microsoft" in fault.reason


def test_types_that_an_operator_does_not_take():
    double = faults("MatMul", "x", "x", inputs=[("x", D, [3, 3])])
    assert [fault.reason.partition(",")[0] for fault in double] == ["type DOUBLE", "type DOUBLE"]  # of input and node
    assert "type INT64" in faults("Softmax", inputs=[("x", N, [3])])[0].reason
    assert faults("Add", "x", "x", inputs=[("x", N, [3])]) == []
    assert faults("Cast", to=F) == [] and "type DOUBLE" in faults("Cast", to=D)[0].reason
    complex64 = faults("Identity", inputs=[("x", TensorProto.COMPLEX64, [3])])
    assert "type COMPLEX64" in complex64[0].reason


def test_a_type_is_found_in_the_middle_of_a_graph():
    nodes = [helper.make_node("Cast", ["x"], ["wide"], to=D), helper.make_node("Sin", ["wide"], ["y"], name="sine")]
    assert [fault.op for fault in unsupported(model(nodes))] == ["Cast", "Sin"]


def test_conditions_and_indices_are_not_the_type_of_the_data():
    inputs = [("c", B, [3]), ("x", F, [3])]
    assert faults("Where", "c", "x", "x", inputs=inputs) == []
    assert faults("Gather", "x", "i", constants=[("i", np.array([0, 1]))]) == []
    assert faults("ConstantOfShape", "s", constants=[("s", np.array([2, 3]))]) == []


ONE = ("one", np.array([1], np.int64))


@pytest.mark.parametrize(
    "reason, arguments",
    [
        ("mode cubic", {"op": "Resize", "names": ("x", "", "s"), "mode": "cubic"}),
        ("antialias 1", {"op": "Resize", "names": ("x", "", "s"), "antialias": 1, "mode": "linear"}),
        ("neither 2D nor 3D", {"op": "AveragePool", "kernel_shape": [2], "inputs": [("x", F, [1, 2, 8])]}),
        ("dilations", {"op": "MaxPool", "kernel_shape": [2, 2], "dilations": [2, 2]}),
        ("axes is no constant", {"op": "ReduceSum", "names": ("x", "a"), "inputs": [("x", F, [2]), ("a", N, [1])]}),
        ("axis is no constant", {"op": "CumSum", "names": ("x", "a"), "inputs": [("x", F, [2]), ("a", N, [])]}),
        ("type INT64", {"op": "CumSum", "names": ("x", "one"), "constants": [ONE], "inputs": [("x", N, [2])]}),
        ("without axes", {"op": "Squeeze"}),
        ("sorted 0", {"op": "TopK", "names": ("x", "one"), "sorted": 0, "constants": [ONE]}),
        ("below 3840", {"op": "TopK", "names": ("x", "k"), "constants": [("k", np.array([4000]))]}),
        ("reduction add", {"op": "ScatterND", "names": ("x", "i", "x"), "reduction": "add"}),
        ("zero point other", {"op": "QuantizeLinear", "names": ("x", "s", "z"), "constants": [
            ("s", np.float32(1)), ("z", np.int8(3))]}),
        ("layout", {"op": "LSTM", "names": ("x", "x", "x"), "hidden_size": 3, "layout": 1}),
        ("ellipsis", {"op": "Einsum", "names": ("x", "x"), "equation": "...ij,...jk->...ik"}),
        ("since TensorRT 10.14", {"op": "Attention", "names": ("x", "x", "x"), "opset": 23}),
        ("since TensorRT 10.15", {"op": "RMSNormalization", "names": ("x", "x"), "opset": 23}),
        ("whole exponents", {"op": "Pow", "names": ("x", "one"), "constants": [ONE]}),
        ("not checked here", {"op": "RandomNormalLike"}),
        ("training_mode", {"op": "Dropout", "names": ("x", "", "t"), "constants": [("t", np.array(True))]}),
    ],
)  # fmt: skip
def test_restrictions_of_the_list(reason, arguments):
    given = dict(arguments)
    found = faults(given.pop("op"), *given.pop("names", ()), **given)
    assert len(found) == 1 and reason in found[0].reason


def test_newer_versions_take_more():
    assert faults("Einsum", "x", "x", equation="...ij,...jk->...ik", version="10.12") == []
    assert faults("Attention", "x", "x", "x", opset=23, version="11.0") == []
    assert faults("Pow", "x", "one", constants=[ONE], version="10.8") == []


@pytest.mark.parametrize(
    "op, names, attributes",
    [
        ("Resize", ("x", "", "s"), {"mode": "linear", "constants": [("s", np.ones(4, "f4"))]}),
        ("ReduceMean", ("x", "one"), {"constants": [ONE]}),
        ("MaxPool", ("x",), {"kernel_shape": [2, 2]}),
        ("TopK", ("x", "one"), {"constants": [ONE]}),
        ("DequantizeLinear", ("q", "s", "z"), {
            "constants": [("q", np.ones(3, np.int8)), ("s", np.float32(1)), ("z", np.int8(0))]}),
        ("ScatterND", ("x", "i", "x"), {"inputs": [("x", F, [2]), ("i", N, [2, 1])]}),
        ("LayerNormalization", ("x", "x"), {}),
        ("Einsum", ("x", "x"), {"equation": "abcd,abed->abce"}),
        ("Pow", ("x", "x"), {}),
    ],
)  # fmt: skip
def test_what_the_list_allows(op, names, attributes):
    assert faults(op, *names, **attributes) == []


def test_tensors_of_too_many_dimensions():
    (fault,) = faults("Reshape", "x", "s", constants=[("s", np.array([2, 3, 2, 2, 2, 2, 2, 2, 1]))])
    assert "y has 9 dimensions" in fault.reason


def test_opsets_outside_of_the_range():
    assert "opset 25" in faults("Relu", opset=25)[0].reason


def test_nodes_inside_of_others_are_seen():
    def branch(name, op):
        out = helper.make_tensor_value_info(name, F, None)
        return helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [out])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("a", "Relu"), else_branch=branch("b", "Det"))
    found = unsupported(model([node], [("c", B, []), ("x", F, [3, 3])]))
    assert [fault.op for fault in found] == ["If", "Det"]  # If has a restriction that nobody checks


def test_the_list_is_consistent_and_says_where_it_is_from():
    listed = supported._list()
    assert listed["source"].startswith("https://github.com/onnx/onnx-tensorrt/") and listed["tensorrt"] == "10.15"
    assert not set(listed["operators"]) & set(listed["unsupported"])
    assert {*listed["restrictions"], *listed["since"], *CHECKS} <= set(listed["operators"])
    assert {kind for kinds in listed["operators"].values() for kind in kinds} <= set(listed["types"])


def test_directories_are_reported_as_text_and_json(tmp_path, capsys):
    directory = small_export(tmp_path / "export")
    assert main([str(directory), "--json", str(tmp_path / "report.json")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("all supported") == 2 and "4 nodes, 3 operators, opset 20" in shown
    assert set(json.loads((tmp_path / "report.json").read_text())) == {str(p) for p in directory.glob("*.onnx")}
    save(model([helper.make_node("Det", ["x"], ["y"], name="it")]), tmp_path / "wrong.onnx")
    assert main([str(tmp_path / "wrong.onnx")]) == 1
    assert "1 NOT SUPPORTED\n  Det it: listed as unsupported" in capsys.readouterr().out


def test_files_that_are_none_are_told(tmp_path, capsys):
    (tmp_path / "text.onnx").write_text("this is not a model")
    with pytest.raises(CheckpointError, match="not readable as ONNX"):
        reports([tmp_path])
    with pytest.raises(CheckpointError, match="no ONNX file"):
        reports([tmp_path / "nothing"])
    with pytest.raises(InputError, match="such as 10.5, got 'new'"):
        unsupported(model([]), "new")
    assert main([str(tmp_path / "nothing")]) == 2 and "error: " in capsys.readouterr().err
    assert table({}) == ""
