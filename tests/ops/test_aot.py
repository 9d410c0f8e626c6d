"""Compilation for GPUs that are not here: `make test` compiles all kernels; here is what that check would miss."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ussfast.ops import aot

# triton is an extra; `make test` installs it, so this runs in CI.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

HERE = Path(__file__).parent
FAULTS = """
import json, sys
from ussfast.ops.aot import asdict, compile_one
print(json.dumps([asdict(compile_one(("aot_specimens", i, 0, 0, int(sys.argv[1])))) for i in range(4)]))
"""


def run(*command, path=None):
    # A process of its own: this one has Triton in interpreter mode, which cannot compile.
    environment = os.environ | {"TRITON_INTERPRET": "0"} | ({"PYTHONPATH": f"{path}:{HERE.parents[1]}"} if path else {})
    return subprocess.run([sys.executable, *command], env=environment, text=True, capture_output=True)


def test_faults_are_found():
    done = run("-c", FAULTS, "90", path=HERE)
    assert done.returncode == 0, done.stderr[-2000:]
    crowded, matrix, none, wrong = json.loads(done.stdout.splitlines()[-1])
    assert crowded["spilled"] > 0 and f"spills {crowded['spilled']} bytes" in crowded["problem"]
    assert matrix["matrix"] > 0 and not matrix["problem"]
    assert none["matrix"] == 0 and none["problem"] == "no matrix instruction"
    assert wrong["problem"].startswith("does not compile")


def test_shared_memory_has_a_limit():
    report = aot.Report("k", "s", 80, "", shared=aot.SHARED_LIMIT[80] + 1, matrix=1)
    assert "shared memory" in aot.problem(report, True, b"\x7fELF")
    assert not aot.problem(aot.Report("k", "s", 90, "", shared=report.shared, matrix=1), True, b"\x7fELF")
    assert aot.problem(aot.Report("k", "s", 90, ""), False, b"") == "no machine code"


def test_command_line(tmp_path):
    file = tmp_path / "out.json"
    done = run("-m", "ussfast.ops.aot", "--arch", "80,90", "--check", "--only", "rms_group_norm", "--json", file)
    assert done.returncode == 0, done.stderr[-2000:]
    reports = json.loads(file.read_text())
    assert {report["arch"] for report in reports} == {80, 90}
    assert f"{len(reports)} kernels compiled, 0 with a problem" in done.stdout
    assert done.stdout.splitlines()[0].split()[:3] == ["kernel", "specimen", "arch"]
    assert all(report["kernel"].startswith("_rms_group_norm") and report["registers"] > 8 for report in reports)


def test_nothing_to_check_is_no_success():
    assert run("-m", "ussfast.ops.aot", "--check", "--only", "no such op").returncode == 1


def test_bad_architectures_are_an_error():
    done = run("-m", "ussfast.ops.aot", "--arch", "sm90")
    assert done.returncode == 2
    assert "expected numbers such as 80,90,100" in done.stderr


def test_every_file_of_kernels_has_specimens():
    names = {module.__name__.rsplit(".", 1)[1] for module in aot.modules()}
    there = (HERE.parents[1] / "ussfast/ops/_triton").iterdir()
    files = {p.stem for p in there if not p.stem.startswith("_") and (p.suffix == ".py" or p.is_dir())}
    assert names == files
    assert all(list(module.specimens()) for module in aot.modules())
