"""Packages of AOTInductor: as PyTorch computes, in processes without ussfast, and what is refused."""

import json
import os
import subprocess
import sys

import pytest
import torch
from aoti_packages import LIMITS, equal, packages, wanted
from tiny import CAUSAL, RATE, TUSS, noise, tiny_model
from torch._inductor import config

from ussfast import Separator
from ussfast.checkpoints.exported import file_hash, prompts_of
from ussfast.engine.backends.aoti import AotiRunner, cpu_flags, missing_instructions
from ussfast.errors import CheckpointError, DeviceError, InputError, OutputError, UssfastError
from ussfast.export import aoti, graphs_of

# Runs a package as somebody would who has PyTorch only, without a compiler, in a folder where no ussfast is.
ALONE = """
import json, os, sys
os.environ["PATH"] = os.environ["CXX"] = ""
import torch
run = torch._inductor.aoti_load_package(sys.argv[1])
torch.save([run(*inputs) for inputs in torch.load(sys.argv[2])], sys.argv[3])
assert "ussfast" not in sys.modules and not [name for name in dir(torch.ops) if name == "ussfast"]
print(run.get_metadata()["ussfast"])
"""


@pytest.fixture(scope="module")
def model():
    return tiny_model(TUSS).eval()


@pytest.fixture(scope="module")
def graph(model):
    return graphs_of(model, "offline", LIMITS)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    return packages(tmp_path_factory.mktemp("aoti-tuss"), model)


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "sources": 1, "frames": 1},
        {"batch": 2, "sources": 3, "frames": 9},
        {"batch": 1, "sources": 4, "frames": 30},
        {"batch": 3, "sources": 1, "frames": 2},
        {"batch": 3, "sources": 2, "frames": 1},
    ],
    ids=lambda sizes: "x".join(map(str, sizes.values())),
)
def test_equals_pytorch_at_all_sizes(folder, graph, sizes):
    inputs = graph.example(3, **sizes)
    equal(AotiRunner(folder).run("model", inputs), wanted(graph, inputs))


def test_input_with_gaps_is_the_same_input(folder, graph):
    inputs = graph.example(4, batch=2, sources=2, frames=5)
    gaps = {name: tensor.transpose(0, -1).contiguous().transpose(0, -1) for name, tensor in inputs.items()}
    runner = AotiRunner(folder)
    equal(runner.run("model", gaps), runner.run("model", inputs), 0)


def test_runs_where_there_is_no_ussfast(folder, graph, tmp_path):
    examples = [graph.example(5, batch=1, sources=2, frames=7), graph.example(6, batch=3, sources=4, frames=3)]
    torch.save([tuple(inputs.values()) for inputs in examples], tmp_path / "in.pt")
    command = [sys.executable, "-c", ALONE, folder / "model.pt2", tmp_path / "in.pt", tmp_path / "out.pt"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for inputs, found in zip(examples, torch.load(tmp_path / "out.pt"), strict=True):
        equal({"masks": found}, wanted(graph, inputs))
    about = json.loads(done.stdout)
    assert about["sample_rate"] == RATE and about["graphs"]["model"]["dims"]["sources"] == [1, LIMITS.prompts]


def test_a_separator_runs_it(folder, model):
    mixture = noise(2, RATE // 2)
    theirs = Separator(folder, ("speech", "drums"), backend="aoti").separate(mixture, RATE)
    ours = Separator.from_model(model, ("speech", "drums"), device="cpu", segment=1.0).separate(mixture, RATE)
    for name in ("speech", "drums"):
        assert abs(theirs[name] - ours[name]).max() <= 1e-4 * abs(ours[name]).max()


def test_vectors_are_those_of_the_model(folder, model):
    vectors = prompts_of(folder)
    assert list(vectors) == list(model.prompt_names)
    assert vectors["sfx"] == model.prompt_vectors(("sfx",))[0].tolist()


def test_sizes_beyond_the_limits_are_refused(folder, graph):
    inputs = graph.example(frames=4)
    with pytest.raises(InputError, match="takes 1 to 4 sources, got 5"):
        AotiRunner(folder).run("model", inputs | {"prompts": torch.zeros(2, 5, TUSS.cross_prompt.dim)})
    with pytest.raises(InputError, match="needs prompts"):
        AotiRunner(folder).run("model", inputs | {"prompts": torch.zeros(1, 2, TUSS.cross_prompt.dim)})
    with pytest.raises(CheckpointError, match="no graph 'step'"):
        AotiRunner(folder).run("step", {})


def copy(folder, there, **changes):
    """The export under another name; changes: in export.json."""
    there.mkdir()
    for path in folder.iterdir():
        (there / path.name).write_bytes(path.read_bytes())
    said = json.loads((there / "export.json").read_text()) | changes
    (there / "export.json").write_text(json.dumps(said))
    return there


def test_what_is_no_package_is_refused(folder, graph, tmp_path):
    with pytest.raises(CheckpointError, match="export.json is missing"):
        AotiRunner(tmp_path)
    with pytest.raises(CheckpointError, match="use backend 'onnx'"):
        AotiRunner(copy(folder, tmp_path / "kind", kind="onnx"))
    missing = copy(folder, tmp_path / "missing")
    (missing / "model.pt2").unlink()
    with pytest.raises(CheckpointError, match=r"model.pt2: missing"):
        AotiRunner(missing).run("model", graph.example())
    other = copy(folder, tmp_path / "other")
    (other / "model.pt2").write_bytes(b"no package")
    with pytest.raises(CheckpointError, match="not the file that"):
        AotiRunner(other).run("model", graph.example())
    said = json.loads((other / "export.json").read_text())
    said["graphs"]["model"]["sha256"] = file_hash(other / "model.pt2")
    (other / "export.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="cannot be loaded: .*zip") as error:
        AotiRunner(other).run("model", graph.example())
    assert "\n" not in str(error.value)


def test_a_package_for_another_machine_is_refused(folder, graph, monkeypatch):
    with pytest.raises(DeviceError, match="made for cpu, not for cuda"):
        AotiRunner(folder, "cuda").run("model", graph.example())
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(DeviceError, match="this is riscv64: export it here"):
        AotiRunner(folder).run("model", graph.example())


def test_instructions_that_a_processor_lacks_are_named():
    assert missing_instructions("AVX512 AVX512_VNNI", {"avx2", "avx512f"}) == ["avx512_vnni"]
    assert missing_instructions("AVX512 AMX_TILE", {"avx2"}) == ["avx512f", "amx_tile"]
    assert missing_instructions("AVX2", {"avx2", "fma"}) == []
    assert missing_instructions("ASIMD", {"fp", "asimd"}) == [] and missing_instructions("AVX2", set()) == []
    assert not os.path.exists("/proc/cpuinfo") or isinstance(cpu_flags(), set)


def test_without_a_compiler_nothing_is_begun(tmp_path):
    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(InputError, match="no no-such-compiler: inst"):
        aoti.export_aoti(tmp_path / "not looked at", tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"precision": "fp16"}, "precision fp32, got 'fp16'"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"modes": ["step"]}, "only causal models have a mode step"),
        ({"modes": ["off"]}, "mode must be one of"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_made_is_refused(model, tmp_path, asked, said):
    with pytest.raises(InputError, match=said):
        aoti.export_aoti(model, tmp_path / "new", **asked)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(model, tmp_path):
    with pytest.raises(DeviceError, match="has none"):
        aoti.export_aoti(model, tmp_path / "new", device="cuda")


def test_an_export_that_is_interrupted_leaves_nothing(monkeypatch, tmp_path):
    def interrupted(graph, path, device, said):
        path.write_bytes(b"half")
        if graph.name != "prompts":
            raise KeyboardInterrupt

    monkeypatch.setattr(aoti, "compile_to", interrupted)
    with pytest.raises(KeyboardInterrupt):
        aoti.export_aoti(tiny_model(CAUSAL), tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_a_folder_that_cannot_be_written_is_refused(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        aoti.export_aoti(model, tmp_path / "file" / "new")


def test_what_the_compiler_says_is_one_line(model, graph, monkeypatch, tmp_path):
    from torch._inductor.exc import CppCompileError

    def fails(*args, **options):
        raise CppCompileError(["g++"], "In file:\nfatal error: no such header\nand a page of more")

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fails)
    monkeypatch.setattr(aoti, "program", lambda graph, device: None)
    with pytest.raises(UssfastError, match="^model: AOTInductor could not compile it: fatal error: no such header$"):
        aoti.export_aoti(model, tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_a_package_for_some_sizes_only_is_refused(model, monkeypatch, tmp_path):
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", lambda *args, **options: None)
    monkeypatch.setattr(aoti, "program", lambda graph, device: None)
    monkeypatch.setattr(aoti, "taken_for_equal", lambda traced, graph: ["Eq(s0, 4*(s0//4))"])
    with pytest.raises(UssfastError, match=r"^model: AOTInductor made it for sizes where Eq\(s0, .+ not for all$"):
        aoti.export_aoti(model, tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
