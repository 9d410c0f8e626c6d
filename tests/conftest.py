"""Shared fixtures. What must be set before triton is imported stands at the top."""

import gc
import importlib.util
import os
import signal

import pytest
import torch
from tiny import SHORT, tiny_directory

from ussfast import Separator

if not torch.cuda.is_available():
    if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
        pytest.exit("FAIL_WITHOUT_CUDA=1, but there is no CUDA device", returncode=1)
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton kernels run on the CPU, in its interpreter
    if importlib.util.find_spec("triton"):
        import triton_interpreter

        triton_interpreter.mend()

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 2))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A tiny model with prompts, as a user has it."""
    return tiny_directory(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def separator(directory):
    return Separator(directory, ("speech", "sfx"), device="cpu", **SHORT)


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """Shells start background jobs with interrupts ignored, nohup with SIGHUP, which children inherit: tests of signals
    need them."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """What earlier modules left (a million objects) is not looked through by every collection: a tenth of all time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def nan_filled_empty():
    """torch.empty returns NaN, so that a kernel that leaves a hole in its output cannot pass by luck."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]
