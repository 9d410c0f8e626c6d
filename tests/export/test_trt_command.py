"""python -m ussfast.export.trt: what it builds, prints and returns."""

import json
import sys

import pytest
from small_export import small_export
from trt_world import install

from ussfast.export.trt.__main__ import main


@pytest.fixture
def world(monkeypatch, tmp_path):
    return install(monkeypatch, tmp_path)


@pytest.fixture
def export(tmp_path):
    return small_export(tmp_path / "export")


def test_engines_are_built_and_reported(world, export, tmp_path, capsys):
    sizes = ["--typical", "frames=20", "--typical", "sources=2"]
    assert main([str(export), *sizes, "--json", str(tmp_path / "r.json")]) == 0
    shown = capsys.readouterr()
    assert "built in" in shown.out and "frames=20" in shown.out and not shown.err
    summary = json.loads((tmp_path / "r.json").read_text())
    assert [one["graph"] for one in summary] == ["model", "step"] and all(one["good"] for one in summary)


def test_engines_are_verified_without_building(world, export, capsys):
    assert main([str(export), "--verify"]) == 2
    assert "no engine of model.onnx" in capsys.readouterr().err
    assert main([str(export), "--no-check", "-q"]) == 0
    world.scale = 1.1
    assert main([str(export), "--verify", "--graph", "step"]) == 1
    assert "DIFFERS" in capsys.readouterr().out
    assert len(world.trt.made("Builder", "build_serialized_network")) == 2


@pytest.mark.parametrize("text", ["frames", "frames=", "frames=x", "frames=-1"])
def test_sizes_that_are_none_are_told(world, export, text, capsys):
    assert main([str(export), "--typical", text]) == 2
    assert "--typical must be NAME=NUMBER" in capsys.readouterr().err


def test_without_tensorrt_one_line_says_what_to_do(export, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main([str(export)]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and f"run python -m ussfast.export.trt {export}" in shown


def test_an_interrupt_has_its_exit_code(world, export, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ussfast.export.trt.__main__.build_engines", interrupted)
    assert main([str(export)]) == 130 and "interrupted" in capsys.readouterr().err
