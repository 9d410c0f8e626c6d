"""Tiles tuned on a machine: measured when asked for, kept on disk, never trusted blindly. The GPU is made up."""

import importlib.util
import json

import pytest
import torch

# triton is an extra; `make test` installs it, so this runs in CI.
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from ussfast.ops._triton import _launch, _tuning
from ussfast.ops._triton._call import Call, tile

SMALL, LARGE, HUGE = tile(BLOCK=16), tile(BLOCK=32), tile(8, 3, BLOCK=64)
DEVICE = torch.device("cuda", 0)


class Kernel:
    __name__ = "_made_up_kernel"


def call(*tiles, rows=100):
    return Call(Kernel(), lambda t: (1,), {"rows": rows, "x": torch.zeros(1)}, {"WIDE": 3}, tiles)


@pytest.fixture(autouse=True)
def gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("USSFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("USSFAST_TUNE", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Made-up GPU (9000)")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    forget(monkeypatch)
    return _tuning.path("Made-up GPU (9000)")


def forget(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(_tuning, "_tables", {})
    monkeypatch.setattr(_tuning, "_chosen", {})


def measured(monkeypatch, times):
    asked = []

    def do_bench(run, **_):
        asked.append(run.args[0])
        if times[run.args[0]] is None:
            raise _tuning.triton.runtime.errors.OutOfResources(2, 1, "shared memory")
        return times[run.args[0]]

    monkeypatch.setattr(_tuning.triton.testing, "do_bench", do_bench)
    return asked


def test_the_default_is_used_without_tuning(gpu, monkeypatch):
    asked = measured(monkeypatch, {})
    assert _tuning.choose(call(SMALL, LARGE), DEVICE) == SMALL
    assert not asked and not gpu.exists()


def test_the_fastest_is_kept_for_later_processes(gpu, monkeypatch):
    monkeypatch.setenv("USSFAST_TUNE", "1")
    asked = measured(monkeypatch, {SMALL: 3.0, LARGE: 1.0, HUGE: None})  # HUGE does not fit
    assert _tuning.choose(call(SMALL, LARGE, HUGE), DEVICE) == LARGE
    assert _tuning.choose(call(SMALL, LARGE, HUGE), DEVICE) == LARGE
    assert asked == [SMALL, LARGE, HUGE]
    monkeypatch.delenv("USSFAST_TUNE")
    forget(monkeypatch)
    assert _tuning.choose(call(SMALL, LARGE, HUGE), DEVICE) == LARGE
    (entry,) = json.loads(gpu.read_text()).values()
    assert entry == {"tile": LARGE.options(), "milliseconds": 1.0, "default_milliseconds": 3.0}
    assert "made-up-gpu-9000-triton" in gpu.name


def test_sizes_of_another_order_are_another_question(gpu, monkeypatch):
    monkeypatch.setenv("USSFAST_TUNE", "1")
    measured(monkeypatch, {SMALL: 3.0, LARGE: 1.0})
    _tuning.choose(call(SMALL, LARGE, rows=100), DEVICE)
    _tuning.choose(call(SMALL, LARGE, rows=120), DEVICE)
    _tuning.choose(call(SMALL, LARGE, rows=1000), DEVICE)
    assert len(json.loads(gpu.read_text())) == 2


@pytest.mark.parametrize("content", ["", "[", "null", '{"a": 1}', '{"_made_up_kernel": {}}'])
def test_a_broken_file_is_no_obstacle(gpu, monkeypatch, content):
    gpu.parent.mkdir()
    gpu.write_text(content)
    assert _tuning.choose(call(SMALL, LARGE), DEVICE) == SMALL


def test_a_tile_that_is_no_longer_a_candidate_is_ignored(gpu, monkeypatch):
    monkeypatch.setenv("USSFAST_TUNE", "1")
    measured(monkeypatch, {SMALL: 3.0, LARGE: 1.0})
    _tuning.choose(call(SMALL, LARGE), DEVICE)
    forget(monkeypatch)
    monkeypatch.delenv("USSFAST_TUNE")
    assert _tuning.choose(call(SMALL, HUGE), DEVICE) == SMALL


def test_nothing_is_measured_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setenv("USSFAST_TUNE", "1")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    asked = measured(monkeypatch, {SMALL: 3.0, LARGE: 1.0})
    assert _tuning.choose(call(SMALL, LARGE), DEVICE) == SMALL
    assert not asked
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert _tuning.choose(call(SMALL, LARGE), DEVICE) == LARGE


def test_a_cache_that_cannot_be_written_costs_nothing(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("USSFAST_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("USSFAST_TUNE", "1")
    measured(monkeypatch, {SMALL: 3.0, LARGE: 1.0})
    assert _tuning.choose(call(SMALL, LARGE), DEVICE) == LARGE


def test_float32_products_are_exact_unless_the_user_allows_tf32():
    name = _launch.tl.float32
    assert _launch.dot_types(torch.float32) == (name, "tf32x3")
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert _launch.dot_types(torch.float32) == (name, "tf32")
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert _launch.dot_types(torch.float32, "bfloat16")[0] == _launch.tl.bfloat16
