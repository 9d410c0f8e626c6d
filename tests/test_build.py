"""Building and importing on machines that lack things: never a broken import, never a silent one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
NOTHING = {"CXX": "/nonexistent/c++"}
NO_CUDA = "is built without CUDA" if torch.version.cuda is None else "nvcc was not found"


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The sources without anything built."""
    root = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "csrc", root / "csrc")
    built = shutil.ignore_patterns("*.so", "_build_info.json", "__pycache__", "weights")
    shutil.copytree(ROOT / "ussfast", root / "ussfast", ignore=built)
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, root)
    (root / "README.md").touch()
    return root


def run(root: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    dropped = "FAIL_WITHOUT_EXT", "USSFAST_IMPL", "USSFAST_FORCE_ISA", "USSFAST_BUILD"
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    # PYTHONPATH comes before an editable installation
    kept |= {"PYTHONPATH": str(root)} | environment
    return subprocess.run([sys.executable, *command], cwd=root, env=kept, text=True, capture_output=True)


def build(root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(root, "setup.py", "build_ext", "--inplace", **environment)


def info(root: Path) -> dict:
    return json.loads((root / "ussfast" / "_build_info.json").read_text())


def test_none_builds_nothing(copy):
    result = build(copy, USSFAST_BUILD="none")
    assert result.returncode == 0, result.stderr
    assert not list(copy.glob("ussfast/_C*"))
    assert info(copy) == {"target": "none", "built": [], "why_not": "USSFAST_BUILD=none"}


def test_unknown_target_lists_the_right_ones(copy):
    result = build(copy, USSFAST_BUILD="gpu")
    assert result.returncode != 0
    assert "USSFAST_BUILD=gpu: expected one of auto, cpu, cuda, none" in result.stderr


def test_missing_compiler_falls_back_and_says_why(copy):
    result = build(copy, USSFAST_BUILD="auto", **NOTHING)
    assert result.returncode == 0, result.stderr
    reason = "the C++ compiler '/nonexistent/c++' was not found"
    assert reason in result.stderr and reason in info(copy)["why_not"]
    told = run(copy, "-c", "import ussfast.ops; from ussfast import _ext; print(_ext.kernels()[0])").stdout
    assert "'kernel': 'reference'" in told and reason in told.replace("\\", "")


def test_failing_compiler_falls_back_and_says_so(copy):
    result = build(copy, USSFAST_BUILD="auto", CXX="false")
    assert result.returncode == 0, result.stderr[-2000:]
    assert info(copy)["built"] == [] and info(copy)["why_not"].startswith("compilation failed: ")
    assert not list(copy.glob("ussfast/_C*"))


def test_missing_torch_falls_back_and_says_so(copy, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch in this test')")
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{copy}"}
    result = build(copy, USSFAST_BUILD="auto", **path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "torch is not importable (no torch in this test)" in info(copy)["why_not"]
    result = build(copy, USSFAST_BUILD="cpu", **path)
    assert result.returncode != 0 and "USSFAST_BUILD=cpu: torch is not importable" in result.stderr


@pytest.mark.parametrize(
    "target, environment, reason",
    [
        ("cpu", NOTHING, "was not found"),
        ("cpu", {"CXX": "false"}, "compilation failed"),
        ("cuda", {"CUDA_HOME": "/nonexistent"}, NO_CUDA),
    ],
)
def test_named_target_fails_loudly(copy, target, environment, reason):
    result = build(copy, USSFAST_BUILD=target, **environment)
    assert result.returncode != 0
    assert f"USSFAST_BUILD={target}: " in result.stderr and reason in result.stderr


def test_the_cpu_part_stands_alone_where_cuda_cannot_be_built(copy, tmp_path):
    """With a build that does everything but compile."""
    (tmp_path / "sitecustomize.py").write_text(BUILD_NOTHING)
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{copy}", "CUDA_HOME": "/nonexistent", "CXX": "true"}
    for target, reason in (("auto", NO_CUDA), ("cpu", "USSFAST_BUILD=cpu")):
        result = build(copy, USSFAST_BUILD=target, **path)
        assert result.returncode == 0, result.stderr[-2000:]
        found = info(copy)
        assert found["built"] == ["cpu"] and found["why_not"] is None and reason in found["why_not_cuda"]
        assert "CPU kernels only, no CUDA C++" in result.stderr and reason in result.stderr


BUILD_NOTHING = """
from setuptools.command.build_ext import build_ext
build_ext.run = lambda self: None
"""
USE = """
import torch
from ussfast import _ext
from ussfast.ops import rms_group_norm
x = torch.arange(12.0).reshape(3, 4)
rms = x.unflatten(-1, (2, 2)).square().mean(-1, keepdim=True).sqrt()
expected = (x.unflatten(-1, (2, 2)) / (rms + 1e-5)).flatten(-2)
torch.testing.assert_close(rms_group_norm(x, torch.ones(4), 2), expected)
print([row for row in _ext.kernels() if row["device"] == "cpu"][0])
"""
NO_TRITON = "import sys; sys.modules['triton'] = None\n"


@pytest.mark.parametrize(
    "program, environment, why",
    [
        (USE, {}, "was never built"),
        (NO_TRITON + USE, {}, "was never built"),
        (USE, {"USSFAST_IMPL": "reference"}, "USSFAST_IMPL=reference"),
    ],
    ids=["no-extension", "no-triton", "reference"],
)
def test_ops_work_without(copy, program, environment, why):
    (copy / "ussfast" / "_build_info.json").unlink(missing_ok=True)
    result = run(copy, "-c", program, **environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "'kernel': 'reference'" in result.stdout and why in result.stdout


def test_demanded_extension_is_an_import_error(copy):
    result = run(copy, "-c", "import ussfast.ops", FAIL_WITHOUT_EXT="1")
    assert result.returncode != 0 and "ImportError: FAIL_WITHOUT_EXT=1" in result.stderr


@pytest.mark.parametrize(
    "name, value, right",
    [
        ("USSFAST_IMPL", "fast", "native, reference"),
        ("USSFAST_FORCE_ISA", "neon", "generic, avx2, avx512, avx512_vnni, avx512_bf16"),
    ],
)
def test_unknown_choices_list_the_right_ones(name, value, right):
    if name == "USSFAST_FORCE_ISA" and not list(ROOT.glob("ussfast/_C*.so")):
        pytest.skip("the C++ extension is not built, so nothing reads USSFAST_FORCE_ISA")
    result = run(ROOT, "-c", "import ussfast.ops", **{name: value})
    assert result.returncode != 0
    assert f"{name}={value}: expected one of {right}" in result.stderr


def test_broken_library_is_reported_and_not_fatal(copy, tmp_path):
    root = tmp_path / "source"
    shutil.copytree(copy / "ussfast", root / "ussfast")
    (root / "ussfast" / "_C.abi3.so").write_text("not a library")
    result = run(root, "-c", USE)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "does not load, build it again" in result.stdout
