"""config.pbtxt as the server's model_config.proto reads it: names and types of the fields are that file's."""

import json

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from small_export import BINS, DIM, HOP, small_export

from ussfast.errors import CheckpointError, InputError, OutputError
from ussfast.export.triton_server import main, write_repository

# Of triton-inference-server/common, protobuf/model_config.proto: the messages and fields that a configuration of ours
# may have, and some that it has not. [] marks repeated ones; `oneof` fields exclude each other.
MESSAGES = {
    "ModelInput": {"name": "string", "data_type": "DataType", "dims": "int64[]", "optional": "bool"},
    "ModelOutput": {"name": "string", "data_type": "DataType", "dims": "int64[]"},
    "Parameter": {"string_value": "string"},
    "ParameterEntry": {"key": "string", "value": "Parameter"},
    "FileEntry": {"key": "string", "value": "string"},
    "InitialState": {"data_type": "DataType", "dims": "int64[]", "zero_data": "bool", "data_file": "string",
                     "name": "string"},
    "State": {"input_name": "string", "output_name": "string", "data_type": "DataType", "dims": "int64[]",
              "initial_state": "InitialState[]", "use_same_buffer_for_input_output": "bool"},
    "StrategyOldest": {"max_candidate_sequences": "int32", "preferred_batch_size": "int32[]",
                       "max_queue_delay_microseconds": "uint64", "preserve_ordering": "bool"},
    "StrategyDirect": {"max_queue_delay_microseconds": "uint64"},
    "ModelSequenceBatching": {"max_sequence_idle_microseconds": "uint64", "state": "State[]",
                              "direct": "StrategyDirect", "oldest": "StrategyOldest"},
    "ModelDynamicBatching": {"preferred_batch_size": "int32[]", "max_queue_delay_microseconds": "uint64"},
    "ModelConfig": {"name": "string", "platform": "string", "backend": "string", "max_batch_size": "int32",
                    "input": "ModelInput[]", "output": "ModelOutput[]", "default_model_filename": "string",
                    "cc_model_filenames": "FileEntry[]", "sequence_batching": "ModelSequenceBatching",
                    "dynamic_batching": "ModelDynamicBatching", "parameters": "ParameterEntry[]"},
}  # fmt: skip


def _config_class():
    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package="t", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(("TYPE_INVALID", "TYPE_FP32", "TYPE_FP16", "TYPE_INT64")):
        kinds.value.add(name=name, number=number)
    plain = {"string": 9, "bool": 8, "int32": 5, "int64": 3, "uint64": 4}
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            added = message.field.add(name=field, number=number, label=3 if kind.endswith("[]") else 1)
            kind = kind.removesuffix("[]")
            added.type = plain.get(kind, 14 if kind == "DataType" else 11)
            if kind not in plain:
                added.type_name = f".t.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))


def parsed(path):
    """ParseError for fields that there are not, and for values of another type."""
    return text_format.Parse((path / "config.pbtxt").read_text(), _config_class()())


@pytest.fixture
def export(tmp_path):
    return small_export(tmp_path / "export")


def test_a_graph_without_state_is_batched_as_requests_come(export, tmp_path):
    assert write_repository(export, tmp_path / "models") == ["small-model", "small-step"]
    config = parsed(tmp_path / "models/small-model")
    assert (config.name, config.platform, config.max_batch_size) == ("small-model", "onnxruntime_onnx", 4)
    assert {one.name: list(one.dims) for one in config.input} == {"spec": [-1, BINS, 2], "prompts": [-1, DIM]}
    assert {one.name: list(one.dims) for one in config.output} == {"estimate": [-1, -1, BINS, 2]}
    assert config.HasField("dynamic_batching") and not config.HasField("sequence_batching")
    assert all(one.data_type == 1 for one in (*config.input, *config.output))
    assert (tmp_path / "models/small-model/1" / config.default_model_filename).read_bytes() == (
        export / "model.onnx"
    ).read_bytes()


def test_a_graph_with_state_keeps_that_of_each_stream_from_zeros(export, tmp_path):
    write_repository(export, tmp_path / "models", sources=2, streams=9, idle_seconds=5)
    config = parsed(tmp_path / "models/small-step")
    assert [one.name for one in config.input] == ["audio"] and [one.name for one in config.output] == ["out"]
    assert list(config.output[0].dims) == [2, HOP]
    sequence = config.sequence_batching
    assert sequence.max_sequence_idle_microseconds == 5_000_000
    assert sequence.HasField("oldest") and sequence.oldest.max_candidate_sequences == 9
    (state,) = sequence.state
    assert (state.input_name, state.output_name, list(state.dims)) == ("overlap", "next_overlap", [2, HOP])
    (first,) = state.initial_state
    assert first.zero_data and list(first.dims) == [2, HOP] and first.name and first.data_type == 1
    assert not config.HasField("dynamic_batching")
    known = {one.key: one.value.string_value for one in config.parameters}
    assert known == {"sample_rate": "8000", "hop": "5", "latency_samples": "5", "sources": "2", "labels": "speech"}


def engine(export, graph, capability, version="11.4.0.106", gpu="GPU"):
    key = {"gpu": gpu, "capability": capability, "tensorrt": version, "sha256": "0" * 64}
    path = export / f"{graph}.{gpu}-{capability}-{version}.engine"
    path.write_bytes(f"{graph} {capability} {version}".encode())
    about = {"key": key, "engine_sha256": "0" * 64, "bytes": path.stat().st_size}
    path.with_suffix(".json").write_text(json.dumps(about))


def test_engines_are_chosen_by_the_compute_capability(export, tmp_path):
    for graph in ("model", "step"):
        engine(export, graph, "8.6")
        engine(export, graph, "9.0")
    write_repository(export, tmp_path / "models", engines=True)
    config, folder = parsed(tmp_path / "models/small-step"), tmp_path / "models/small-step/1"
    assert config.platform == "tensorrt_plan" and not config.default_model_filename
    files = {one.key: (folder / one.value).read_text() for one in config.cc_model_filenames}
    assert files == {capability: f"step {capability} 11.4.0.106" for capability in ("8.6", "9.0")}
    assert sorted(path.name for path in folder.iterdir()) == sorted(one.value for one in config.cc_model_filenames)


def test_engines_of_several_versions_or_gpus_need_a_choice(export, tmp_path):
    with pytest.raises(InputError, match="no engine of model.onnx"):
        write_repository(export, tmp_path / "models", engines=True)
    for graph in ("model", "step"):
        engine(export, graph, "9.0")
        engine(export, graph, "9.0", version="10.15.1.29")
    with pytest.raises(InputError, match="engines for TensorRT 10.15.1.29, 11.4.0.106: say which"):
        write_repository(export, tmp_path / "models", engines=True)
    write_repository(export, tmp_path / "models", engines=True, tensorrt="10.15.1.29")
    assert (tmp_path / "models/small-step/1/model.plan").read_text() == "step 9.0 10.15.1.29"
    engine(export, "model", "9.0", gpu="Other")
    with pytest.raises(InputError, match="are for one compute capability"):
        write_repository(export, tmp_path / "again", engines=True, tensorrt="11.4.0.106")
    assert not (tmp_path / "again").exists()


def test_prompts_and_weights_come_along(export, tmp_path):
    (export / "prompts.json").write_text('{"speech": [1, 2, 3]}')
    (export / "model.onnx.data").write_bytes(b"weights")
    write_repository(export, tmp_path / "models")
    assert (tmp_path / "models/small-model/prompts.json").is_file()
    assert not (tmp_path / "models/small-step/prompts.json").exists()
    assert (tmp_path / "models/small-model/1/model.onnx.data").read_bytes() == b"weights"


def changed(export, change):
    manifest = json.loads((export / "export.json").read_text())
    change(manifest["graphs"]["step"])
    (export / "export.json").write_text(json.dumps(manifest))
    return export


def test_states_that_the_server_would_mix_up_are_refused(export, tmp_path):
    def more(graph):
        row = {"shape": ["batch", "sources", HOP], "dtype": "float32"}
        graph["inputs"] += [row | {"name": "a"}]
        graph["outputs"] += [row | {"name": "z"}]
        graph["state"] = [["a", "z"], ["overlap", "next_overlap"]]

    with pytest.raises(InputError, match="ordered differently"):
        write_repository(changed(export, more), tmp_path / "models")


@pytest.mark.parametrize(
    "shape, message",
    [
        (["sources", HOP], "is not by items of a batch"),
        (["batch", "frames", HOP], "size of the state overlap is open"),
        (["batch"], "overlap has no size beside that of the batch"),
    ],
)
def test_shapes_that_the_server_cannot_keep_are_refused(export, tmp_path, shape, message):
    def other(graph):
        graph["inputs"][1]["shape"] = shape
        graph["dims"]["frames"] = [1, 9]

    with pytest.raises(InputError, match=message):
        write_repository(changed(export, other), tmp_path / "models")


def test_names_with_quotes_and_spaces_are_written_as_text(tmp_path):
    export = small_export(tmp_path / "export", name='my "model"\\', labels=['a "b"', "ä"])
    assert write_repository(export, tmp_path / "models")[0] == "my-model--model"
    known = {one.key: one.value.string_value for one in parsed(tmp_path / "models/my-model--model").parameters}
    assert known["labels"] == 'a "b",ä'


def test_what_cannot_be_written_is_told_and_leaves_nothing(export, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").write_text("")
    with pytest.raises(OutputError, match="exists and is not an empty directory"):
        write_repository(export, tmp_path / "there")
    with pytest.raises(OutputError, match="is not a directory"):
        write_repository(export, tmp_path / "no/where")
    with pytest.raises(InputError, match="sources must be a whole number from 1 to 8"):
        write_repository(export, tmp_path / "models", sources=9)
    with pytest.raises(CheckpointError, match="no exported model"):
        write_repository(tmp_path, tmp_path / "models")
    assert main([str(tmp_path), "-o", str(tmp_path / "models")]) == 2 and "error: " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "there"]


def test_the_command_says_how_to_start_the_server(export, tmp_path, capsys):
    assert main([str(export), "-o", str(tmp_path / "models"), "--sources", "4"]) == 0
    assert f"tritonserver --model-repository={tmp_path / 'models'}" in capsys.readouterr().out
    assert list(parsed(tmp_path / "models/small-step").output[0].dims) == [4, HOP]
