"""Benches on a GPU: their JSON names the machine, and nothing runs without one."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import machine


def pytest_collection_modifyitems(items):
    # Benches of a GPU on a machine without one: there is nothing to measure. gpu-bench itself refuses to start there.
    missing = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if Path(__file__).parent in item.path.parents and not torch.cuda.is_available():
            item.add_marker(missing)


def pytest_benchmark_update_machine_info(machine_info):
    if torch.cuda.is_available():
        machine_info |= machine.gpu_info() | {"ceilings": machine.ceilings(), "tuned": os.environ.get("USSFAST_TUNE")}
