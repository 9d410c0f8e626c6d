"""What the GPU's benches do without a GPU: refuse, and draw what others measured."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def roofline():
    spec = importlib.util.spec_from_file_location("roofline", BENCH / "gpu" / "roofline.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(**changes):
    kernel = {"kernel": "locoformer_ffn", "bf16": True, "flop": 4 * 10**11, "bytes": 10**9, "tflops": 300.0}
    ceilings = {"bf16_tflops": 700.0, "float32_tflops": 50.0, "copy_tbps": 4.0}
    return {
        "machine_info": {"gpu": "Made-up GPU", "ceilings": ceilings},
        "benchmarks": [
            {"extra_info": kernel | changes},
            {"extra_info": kernel | {"bf16": False, "tflops": 30.0}},
            {"extra_info": {"kernel": "rms_group_norm", "bf16": True, "bytes": 10**9}},
        ],
    }


def test_a_point_is_rate_over_intensity(roofline):
    first, second = roofline.points(results())
    assert (first["x"], first["y"], first["bf16"]) == (400.0, 300.0, True)
    assert not second["bf16"]


def test_roofline_is_drawn(roofline, tmp_path):
    path = roofline.draw(results(), tmp_path / "roof.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_is_an_error(roofline):
    with pytest.raises(typer.BadParameter, match="make gpu-bench"):
        roofline.points({"benchmarks": []})


# On a machine with a GPU they would run.
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", ["test", "bench"])
def test_without_a_gpu_they_fail_and_write_nothing(command, tmp_path):
    run = [sys.executable, BENCH / "gpu_run.py", command, "-o", tmp_path]
    done = subprocess.run(run, text=True, capture_output=True)
    assert done.returncode == 1
    assert "cannot run here" in done.stderr and "CUDA" in done.stderr
    assert not list(tmp_path.iterdir())


def test_outcomes_are_counted(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import gpu_run

    file = tmp_path / "test_some.py"
    file.write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\n@pytest.mark.skip\ndef test_c(): pass\n"
    )
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import pytest, gpu_run; o = gpu_run.Outcomes(); "
        "pytest.main(['-q', '-p', 'no:cacheprovider', sys.argv[2]], plugins=[o]); "
        "print(json.dumps([o.counts, o.failures]))"
    )
    done = subprocess.run([sys.executable, "-c", code, BENCH, file], text=True, capture_output=True, cwd=tmp_path)
    counts, failures = json.loads(done.stdout.splitlines()[-1])
    assert counts == {"passed": 1, "failed": 1, "skipped": 1}
    assert failures[0]["test"].endswith("test_b") and "assert 0" in failures[0]["why"]
    path = tmp_path / "out" / "x.json"
    gpu_run.write(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1} and [*path.parent.iterdir()] == [path]
