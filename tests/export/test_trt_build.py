"""The builder of TensorRT engines, driven against real bindings' names and signatures (trt_stand_in.py)."""

import json
import os
import threading
import time

import pytest
from small_export import BINS, DIM, HOP, export_again, small_export
from trt_stand_in import NEWEST, OLDEST, VERSIONS
from trt_world import World, install

import ussfast.engine.backends.trt as backend
from ussfast.engine.backends.trt_engines import EngineKey, fingerprint
from ussfast.errors import CheckpointError, DeviceError, InputError, OutputError, UssfastError
from ussfast.export.trt import build_engines
from ussfast.export.trt.report import table
from ussfast.export.trt.timing_cache import default_path


@pytest.fixture
def world(monkeypatch, tmp_path):
    return install(monkeypatch, tmp_path, NEWEST)


@pytest.fixture
def export(tmp_path):
    return small_export(tmp_path / "export")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_graph_becomes_an_engine_that_is_measured(version, monkeypatch, tmp_path, export):
    world = install(monkeypatch, tmp_path, version)
    built = build_engines(export, progress=False)
    assert [engine.graph for engine in built] == ["model", "step"]
    for engine in built:
        key = EngineKey("NVIDIA Stand-in 1", "9.0", version, fingerprint(export / f"{engine.graph}.onnx"))
        assert engine.path == export / f"{engine.graph}.{key}.engine" and engine.path.is_file()
        assert f"nvidia-stand-in-1-sm90-trt{version}-" in engine.path.name
        assert engine.good and not engine.reused and engine.report.is_file()
        assert len(engine.latency["cases"]) >= 1 and engine.latency["cases"][0]["p99_ms"] > 0
    # Strong typing is a flag of 10 with the number 1; in 11 it is what there is.
    flags = [arguments[0] if arguments else 0 for arguments, _ in world.trt.made("Builder", "create_network")]
    assert flags == ([2, 2] if version == OLDEST else [0, 0])
    assert [a[0].name for a, _ in world.trt.made("IBuilderConfig", "clear_flag")] == ["TF32", "TF32"]
    assert not world.trt.made("IBuilderConfig", "set_flag")
    text = table(built)
    assert "built in" in text and "dB" in text and "p99" in text and text.count("\n") == 11, text


def test_the_profile_has_the_limits_of_the_export(world, export):
    build_engines(export, graphs=["model"], check=False, progress=False)
    profile = {a[0]: a[1:] for a, _ in world.trt.made("IOptimizationProfile", "set_shape")}
    frames = round(6 * 8000 / HOP)
    assert profile["spec"] == ((1, 1, BINS, 2), (4, min(frames, 3000), BINS, 2), (4, 3000, BINS, 2))
    assert profile["prompts"] == ((1, 1, DIM), (4, 3, DIM), (4, 8, DIM))


def test_typical_sizes_can_be_given_and_streams_come_one_by_one(world, export):
    build_engines(export, typical={"frames": 7, "sources": 2}, check=False, progress=False)
    profile = {a[0]: a[1:] for a, _ in world.trt.made("IOptimizationProfile", "set_shape")}
    assert profile["spec"][1] == (4, 7, BINS, 2)
    assert profile["overlap"][1] == (1, 2, HOP)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"typical": {"frames": 3001}}, "typical frames must be a whole number from 1 to 3000"),
        ({"typical": {"frame": 1}}, "no graph has a size called frame"),
        ({"graphs": ["steps"]}, "has no graph steps: model, step"),
        ({"workspace_gb": -1}, "workspace_gb must be a number"),
        ({"progress": "yes"}, "progress must be True or False"),
    ],
)
def test_settings_that_cannot_be_are_told_before_anything_runs(world, export, arguments, message):
    with pytest.raises(InputError, match=message):
        build_engines(export, **arguments)
    assert not world.trt.calls


def test_an_engine_is_kept_until_the_graph_or_the_settings_change(world, export):
    first = build_engines(export, progress=False)
    again = build_engines(export, progress=False)
    assert all(engine.reused for engine in again) and "kept" in table(again)
    assert [engine.latency for engine in again] == [engine.latency for engine in first]
    assert not build_engines(export, progress=False, typical={"frames": 9}, graphs=["model"])[0].reused
    export_again(export)
    changed = build_engines(export, progress=False, graphs=["step"])[0]
    assert not changed.reused and changed.path != first[1].path


def test_a_damaged_engine_is_built_again(world, export):
    engine = build_engines(export, graphs=["step"], check=False, progress=False)[0]
    engine.path.write_bytes(engine.path.read_bytes()[:-1] + b"?")
    assert not build_engines(export, graphs=["step"], check=False, progress=False)[0].reused
    engine.report.write_text("{")
    assert not build_engines(export, graphs=["step"], check=False, progress=False)[0].reused


def test_memory_is_limited_where_that_is_asked_for(world, export):
    build_engines(export, graphs=["step"], workspace_gb=0.5, check=False, progress=False)
    (arguments, _), = world.trt.made("IBuilderConfig", "set_memory_pool_limit")  # fmt: skip
    assert arguments == (world.trt.MemoryPoolType.WORKSPACE, 1 << 29)


def test_measurements_of_kernels_go_into_one_file(world, export, tmp_path, caplog):
    build_engines(export, graphs=["model"], check=False, progress=False)
    key = EngineKey("NVIDIA Stand-in 1", "9.0", NEWEST, "0" * 64)
    path = default_path(key)
    assert path.read_bytes() == b"timings model" and path.parent == tmp_path / "cache"
    build_engines(export, graphs=["step"], check=False, progress=False)
    assert path.read_bytes() == b"timings model step"
    path.write_bytes(b"of another version")
    build_engines(export, graphs=["step"], typical={"sources": 2}, check=False, progress=False)
    assert "made anew" in caplog.text and path.read_bytes().startswith(b"timings")


def test_what_another_process_measured_meanwhile_is_kept(world, export, tmp_path):
    cache = tmp_path / "mine.cache"
    world.on_step = lambda *_: cache.write_bytes(b"timings other")
    build_engines(export, graphs=["step"], timing_cache=cache, check=False, progress=False)
    assert cache.read_bytes() == b"timings other step"


def test_a_cache_that_cannot_be_written_is_an_error_where_asked_for(world, export, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("USSFAST_CACHE", str(tmp_path / "file"))
    build_engines(export, graphs=["step"], check=False, progress=False)
    assert "cannot be written" in caplog.text
    with pytest.raises(OutputError, match="cannot be written"):
        build_engines(export, graphs=["model"], timing_cache=tmp_path / "file" / "x", check=False, progress=False)


def test_an_interrupt_ends_the_build_and_leaves_nothing(world, export):
    seen = threading.Event()

    def interrupt(name, step):
        if not seen.is_set():
            seen.set()
            os.kill(os.getpid(), __import__("signal").SIGINT)
            time.sleep(0.5)  # the main thread notices it, and cancels

    world.on_step = interrupt
    before = sorted(path.name for path in export.iterdir())
    with pytest.raises(KeyboardInterrupt):
        build_engines(export, graphs=["model"], check=False, progress=False)
    assert sorted(path.name for path in export.iterdir()) == before
    world.on_step = None
    assert build_engines(export, graphs=["model"], check=False, progress=False)[0].path.is_file()


def test_what_tensorrt_refuses_is_told_with_the_node(world, export):
    world.refuse = [("Einsum", "node_7", "ellipsis\nis not supported")]
    with pytest.raises(CheckpointError, match="does not take it: Einsum node_7: ellipsis is not supported"):
        build_engines(export)
    assert not list(export.glob("*.engine"))


def test_a_tensorrt_that_does_not_start_says_why(world, export, monkeypatch):
    def null(builder, logger):
        logger.log(world.trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setitem(world.trt.behaviours, ("Builder", "__init__"), null)
    with pytest.raises(DeviceError, match="does not start on this machine: CUDA initialization failure with error: 35"):
        build_engines(export)


def test_a_build_that_fails_says_what_tensorrt_said(world, export):
    world.fails = "out of memory"
    with pytest.raises(UssfastError, match="could not build an engine: out of memory"):
        build_engines(export, graphs=["step"], progress=False)
    assert not list(export.glob("*.engine")) and not list(export.glob(".*"))


def test_an_engine_that_computes_something_else_is_not_good(world, export):
    world.scale = 1.01
    engine = build_engines(export, graphs=["step"], progress=False)[0]
    assert not engine.good and "DIFFERS" in table([engine])
    assert not json.loads(engine.report.read_text())["parity"]["cases"][0]["good"]


def test_low_precision_may_differ_more(world, tmp_path):
    world.scale = 1.001  # 60 dB
    assert build_engines(small_export(tmp_path / "half", precision="fp16"), graphs=["model"], progress=False)[0].good
    assert not build_engines(small_export(tmp_path / "full"), graphs=["model"], progress=False)[0].good


def test_inputs_that_the_manifest_does_not_list_are_an_error(world, export):
    manifest = json.loads((export / "export.json").read_text())
    manifest["graphs"]["step"]["inputs"].pop()
    manifest["graphs"]["step"]["state"] = []
    (export / "export.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"input overlap is \(-1, -1, 5\), in export.json None"):
        build_engines(export, graphs=["step"])


def test_without_tensorrt_or_a_gpu_it_says_what_to_run_where(monkeypatch, export):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)  # as if it were not installed
    with pytest.raises(DeviceError, match=r"not installed.*ONNX files in .* are complete.*ussfast.export.trt"):
        build_engines(export)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", World().trt)
    monkeypatch.setattr(backend.torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"no CUDA device.*ONNX files in .* are complete"):
        build_engines(export)


def test_a_tensorrt_that_is_too_old_is_told(world, export):
    world.trt.__version__ = "10.4.0"
    with pytest.raises(DeviceError, match="10.4.0 is too old: 10.5 or newer"):
        build_engines(export)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "aoti"}, "engines are built of ONNX files"),
        ({"version": 2}, "this ussfast reads 'ussfast-export', version 1"),
        ({"graphs": {"model": {"inputs": 1}}}, "graphs.model does not describe a GraphFile"),
    ],
)
def test_directories_that_are_no_export_are_told(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        build_engines(small_export(tmp_path / "export", **change))
    with pytest.raises(CheckpointError, match=r"no exported model"):
        build_engines(tmp_path / "nowhere")


def test_a_directory_that_cannot_be_written_is_told_before_the_work(world, export):
    key = EngineKey("NVIDIA Stand-in 1", "9.0", NEWEST, fingerprint(export / "step.onnx"))
    (export / f"step.{key}.engine").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        build_engines(export, graphs=["step"])
    assert not world.trt.made("Builder", "build_serialized_network")


def test_a_check_without_onnxruntime_is_refused_before_the_build(world, export, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match="needs onnxruntime"):
        build_engines(export)
    assert not world.trt.made("Builder", "build_serialized_network")
    assert len(build_engines(export, check=False, progress=False)) == 2


def test_what_onnxruntime_cannot_run_is_not_compared(world, export, monkeypatch):
    def refused(*_):
        raise CheckpointError("no kernel for this type")

    monkeypatch.setattr("ussfast.engine.backends.onnx.OnnxRunner.run", refused)
    engine = build_engines(export, graphs=["step"], progress=False)[0]
    assert engine.good and "not compared: no kernel for this type" in table([engine])
