"""`ussfast export`, and what is on disk when it fails."""

import json
import signal
import subprocess
import sys
import time

import pytest
from tiny import ASP, CAUSAL, TUSS, tiny_directory, tiny_model
from typer.testing import CliRunner

from ussfast.checkpoints.exported import KEY, read_exported
from ussfast.cli.main import app, main
from ussfast.errors import CheckpointError, InputError, OutputError, UssfastError
from ussfast.export import export_onnx, writing
from ussfast.export.graphs import Graph


def fails(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(["export", *map(str, arguments)])
    return end.value.code, capsys.readouterr().err


def test_wrong_commands(tmp_path, capsys):
    folder = tmp_path / "out"
    model = tiny_directory(tmp_path)
    for arguments, words in (
        (["default", "-o", folder], "give one of --onnx, --trt and --aoti"),
        (["default", "--onnx", "--trt", "-o", folder], "give one of --onnx, --trt and --aoti, not --onnx and --trt"),
        (["default", "--onnx"], "give the directory to write: -o DIR"),
        (["nothing", "--onnx", "-o", folder], "no model 'nothing'"),
        ([model, "--onnx", "-o", folder, "--mode", "step"], "only causal models have a mode step"),
        ([model, "--onnx", "-o", folder, "--max-seconds", "0"], "max-seconds must be from 0.1 to 3600"),
        ([model, "--onnx", "-o", folder, "--max-prompts", "99"], "max-prompts must be from 1 to 64"),
        ([model, "--onnx", "-o", folder, "--batch", "0"], "batch must be from 1 to 1024"),
        ([model, "--aoti", "-o", folder, "--precision", "fp16"], "packages of --aoti are fp32"),
        ([model, "--onnx", "-o", model / "config.json"], "is not a folder"),
        ([model, "--onnx", "-o", model], "is not empty: give a new or an empty directory"),
    ):
        code, said = fails(arguments, capsys)
        assert code in (1, 2) and words in said, said
        assert not folder.exists()


@pytest.mark.slow
def test_a_command_and_what_is_said_in_the_file(tmp_path):
    import onnx

    model, folder = tiny_directory(tmp_path, ASP), tmp_path / "deep" / "out"
    arguments = ["export", model, "--onnx", "-o", folder, "--check", "--max-seconds", "1", "--batch", "1"]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in folder.iterdir()) == ["export.json", "model.onnx"]
    about = read_exported(folder)
    assert (about.name, about.architecture, about.precision, about.kind) == ("tiny", "asp_unet", "fp32", "onnx")
    said = {p.key: p.value for p in onnx.load(folder / "model.onnx").metadata_props}
    inside = json.loads(said[KEY])
    assert inside["graphs"]["model"]["inputs"] == about.graphs["model"]["inputs"]
    assert inside["graphs"]["model"]["dims"] == about.graphs["model"]["dims"]
    assert inside["sample_rate"] == about.sample_rate
    with pytest.raises(InputError, match="is not empty: --overwrite replaces it"):
        export_onnx(model, folder)


def quick(monkeypatch):
    """Graphs that are written at once."""

    class Proto:
        def __init__(self):
            import onnx

            self.metadata_props = onnx.ModelProto().metadata_props

        def SerializeToString(self):
            return b"graph"

    monkeypatch.setattr(writing, "to_onnx", lambda graph: Proto())


def test_what_was_there_stays_until_all_is_ready(tmp_path, monkeypatch):
    quick(monkeypatch)
    model = tiny_model(CAUSAL)
    about = export_onnx(model, tmp_path / "out")
    assert set(about.graphs) == {"prompts", "model", "step"}
    less = export_onnx(model, tmp_path / "out", overwrite=True, modes=("offline",))
    assert set(less.graphs) == {"prompts", "model"} and not (tmp_path / "out" / "step.onnx").exists()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    written = []

    def dies(graph: Graph):
        written.append(graph.name)
        if len(written) == 3:
            raise UssfastError("no more")
        return writing_first(graph)

    writing_first = writing.to_onnx
    monkeypatch.setattr(writing, "to_onnx", dies)
    with pytest.raises(UssfastError, match="no more"):
        export_onnx(model, tmp_path / "out", overwrite=True, modes=("step", "offline"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    quick(monkeypatch)
    (tmp_path / "file").write_text("x")
    with pytest.raises((OutputError, InputError)):
        export_onnx(tiny_model(TUSS), tmp_path / "file")
    with pytest.raises(OutputError):
        export_onnx(tiny_model(TUSS), "/proc/1/nothing")


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"exporting needs .*: pip install 'ussfast\[export\]'"):
        export_onnx(tiny_model(TUSS), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_model(tmp_path):
    with pytest.raises(CheckpointError, match="no model 'nothing'"):
        export_onnx("nothing", tmp_path / "out")


@pytest.mark.slow
def test_interrupted(tmp_path):
    """Ctrl-C while a graph is made: no file of it, and no export.json."""
    model, folder = tiny_directory(tmp_path, TUSS), tmp_path / "out"
    command = [sys.executable, "-m", "ussfast.export", model, "--onnx", "-o", folder]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None and process.stderr.readline().strip() == "model.onnx"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert list(folder.iterdir()) == []
