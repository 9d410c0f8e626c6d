"""Engines run on torch's tensors; onnxruntime stands in for them, on the same addresses (trt_world.py)."""

import json
import sys
import threading

import pytest
import torch
from small_export import BINS, DIM, HOP, export_again, small_export
from trt_stand_in import NEWEST, OLDEST, VERSIONS
from trt_world import Machine, World, install

import ussfast.engine.backends.trt as backend
from ussfast.engine.backends.trt import Cuda, TrtRunner
from ussfast.errors import CheckpointError, DeviceError, InputError, UssfastError
from ussfast.export.trt import build_engines


@pytest.fixture
def world(monkeypatch, tmp_path):
    return install(monkeypatch, tmp_path)


@pytest.fixture
def engines(world, tmp_path):
    directory = small_export(tmp_path / "export")
    build_engines(directory, check=False, progress=False)
    return directory


def expected(spec, prompts):
    return spec[:, None] * prompts.sum(-1)[:, :, None, None, None]


@pytest.mark.parametrize("version", VERSIONS)
def test_outputs_are_those_of_the_graph(version, world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", World(version).trt)
    directory = small_export(tmp_path / "export")
    build_engines(directory, check=False, progress=False)
    runner = TrtRunner(directory)
    for batch, frames, sources in ((1, 1, 1), (4, 50, 8), (2, 3000, 3)):
        spec, prompts = torch.randn(batch, frames, BINS, 2), torch.randn(batch, sources, DIM)
        found = runner.run("model", {"spec": spec, "prompts": prompts})
        assert list(found) == ["estimate"]
        torch.testing.assert_close(found["estimate"], expected(spec, prompts))


def test_inputs_may_be_strided_and_of_other_types(engines):
    spec = torch.randn(1, BINS, 20, 2, dtype=torch.float64).transpose(1, 2)
    prompts = torch.randn(1, 2, DIM).half()
    found = TrtRunner(engines).run("model", {"prompts": prompts, "spec": spec})["estimate"]
    torch.testing.assert_close(found, expected(spec.float(), prompts.float()))


def test_state_goes_in_and_comes_out(engines):
    runner, state = TrtRunner(engines), torch.zeros(2, 3, HOP)
    audio = torch.randn(5, 2, HOP)
    for hop in audio:
        done = runner.run("step", {"audio": hop, "overlap": state})
        state = done["next_overlap"]
    torch.testing.assert_close(done["out"], audio.sum(0)[:, None].expand(2, 3, HOP))


def test_runs_of_several_threads_do_not_mix(engines):
    runner, wrong = TrtRunner(engines), []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(20):
            spec = torch.randn(1, 3 + seed, BINS, 2, generator=generator)
            prompts = torch.randn(1, 1 + seed, DIM, generator=generator)
            found = runner.run("model", {"spec": spec, "prompts": prompts})["estimate"]
            if found.shape != (1, 1 + seed, 3 + seed, BINS, 2) or not torch.allclose(found, expected(spec, prompts)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"spec": (1, 3, BINS, 2)}, "needs prompts .* got nothing"),
        ({}, "needs spec .* got nothing"),
        ({"spec": (1, 3001, BINS, 2), "prompts": (1, 1, DIM)}, "takes 1 to 3000 frames, got 3001"),
        ({"spec": (1, 0, BINS, 2), "prompts": (1, 1, DIM)}, "takes 1 to 3000 frames, got 0"),
        ({"spec": (1, 3, BINS), "prompts": (1, 1, DIM)}, "needs spec"),
        ({"spec": (2, 3, BINS, 2), "prompts": (1, 2, DIM)}, "needs prompts"),
        ({"spec": (1, 3, BINS, 2), "prompts": (1, 9, DIM)}, "takes 1 to 8 sources, got 9"),
    ],
)
def test_what_an_engine_does_not_take_is_told_with_its_limits(engines, inputs, message):
    with pytest.raises(InputError, match=message):
        TrtRunner(engines).run("model", {name: torch.zeros(shape) for name, shape in inputs.items()})


def test_an_engine_of_another_gpu_version_or_file_is_refused(engines, world, monkeypatch):
    audio = {"audio": torch.zeros(1, HOP), "overlap": torch.zeros(1, 1, HOP)}
    monkeypatch.setattr(backend, "Cuda", lambda device: Machine(name="NVIDIA Other", capability="8.6"))
    message = (
        r"no engine of step.onnx for NVIDIA Other \(compute capability 8.6\) with TensorRT 11.4.0.106, only for NVIDIA"
        r" Stand-in 1 \(compute capability 9.0\).*python -m ussfast.export.trt"
    )
    with pytest.raises(DeviceError, match=message):
        TrtRunner(engines).run("step", audio)
    monkeypatch.setattr(backend, "Cuda", Machine)
    monkeypatch.setitem(sys.modules, "tensorrt", World(OLDEST).trt)
    with pytest.raises(DeviceError, match=rf"with TensorRT {OLDEST}, only for .* with TensorRT {NEWEST}"):
        TrtRunner(engines).run("step", audio)
    monkeypatch.setitem(sys.modules, "tensorrt", world.trt)
    export_again(engines)
    with pytest.raises(DeviceError, match="before the ONNX file was changed"):
        TrtRunner(engines).run("step", audio)


def test_weights_beside_the_graph_belong_to_it(engines):
    (engines / "step.onnx.data").write_bytes(b"other weights")
    with pytest.raises(DeviceError, match="before the ONNX file was changed"):
        TrtRunner(engines).load("step")


def test_a_damaged_engine_is_refused(engines):
    path = next(engines.glob("step.*.engine"))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        TrtRunner(engines).load("step")
    path.write_bytes(data)
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(about | {"key": {"gpu": ""}}))
    with pytest.raises(CheckpointError, match="build the engine again"):
        TrtRunner(engines).load("step")
    path.with_suffix(".json").unlink()
    with pytest.raises(DeviceError, match="no engine of step.onnx"):
        TrtRunner(engines).load("step")


def test_what_tensorrt_cannot_load_or_run_is_told_with_its_words(engines, world, monkeypatch):
    monkeypatch.setitem(world.trt.behaviours, ("ICudaEngine", "create_execution_context"), lambda *_: None)
    with pytest.raises(CheckpointError, match="cannot load the engine of step.onnx"):
        TrtRunner(engines).load("step")
    monkeypatch.undo()


def test_a_run_that_fails_is_an_error(engines, world, monkeypatch):
    monkeypatch.setitem(world.trt.behaviours, ("IExecutionContext", "execute_async_v3"), lambda *_: False)
    runner = TrtRunner(engines)
    runner._logger.log(world.trt.ILogger.Severity.ERROR, "illegal\naddress")
    with pytest.raises(UssfastError, match="step: TensorRT could not run the engine: illegal address"):
        runner.run("step", {"audio": torch.zeros(1, HOP), "overlap": torch.zeros(1, 1, HOP)})


def test_graphs_and_devices_that_there_are_not(engines, monkeypatch):
    with pytest.raises(CheckpointError, match="no graph 'other'"):
        TrtRunner(engines).run("other", {"x": torch.zeros(1)})
    monkeypatch.setattr(backend, "Cuda", Cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="need an NVIDIA GPU"):
        TrtRunner(engines)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(DeviceError, match=r"pip install 'ussfast\[trt\]'"):
        TrtRunner(engines)


def test_messages_go_into_the_log(world, caplog):
    logger = backend.logger_of(world.trt)
    for number in range(7):
        logger.log(world.trt.ILogger.Severity.ERROR, f"error {number}")
    logger.log(world.trt.ILogger.Severity.WARNING, "a warning")
    assert logger.errors == [f"error {number}" for number in range(2, 7)]
    assert "a warning" in caplog.text


def test_an_engine_that_was_built_for_less_is_told(engines):
    """export.json was changed by hand, or belongs to another export of the same graph."""
    manifest = json.loads((engines / "export.json").read_text())
    manifest["graphs"]["step"]["dims"]["sources"] = [1, 20]
    (engines / "export.json").write_text(json.dumps(manifest))
    with pytest.raises(UssfastError, match=r"overlap is \[1, 9, 5\], the engine was built for .* to \[4, 8, 5\]"):
        TrtRunner(engines).run("step", {"audio": torch.zeros(1, HOP), "overlap": torch.zeros(1, 9, HOP)})


@pytest.mark.gpu
def test_work_of_the_engines_stream_is_in_order_with_the_callers():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    cuda = Cuda()
    x, y = torch.ones(1 << 24, device=cuda.device), torch.empty(1 << 24, device=cuda.device)
    for _ in range(20):
        x.mul_(1.5)  # what the caller's stream still computes when the engine's is given work
    with cuda.active(), cuda.queued([x, y]) as handle:
        with torch.cuda.stream(torch.cuda.ExternalStream(handle, cuda.device)):
            y.copy_(x)
    x.zero_()
    assert float(y[0]) == pytest.approx(1.5**20, rel=1e-5)
