"""The Fourier transforms of csrc/common: every length they take, and any number of threads in a team."""

import shlex
import shutil
import subprocess
import sysconfig
from os import environ
from pathlib import Path

import pytest
import torch

from ussfast import _ext
from ussfast.ops import _fft

pytestmark = pytest.mark.usefixtures("nan_filled_empty")

HERE = Path(__file__).parent
COMPILER = shlex.split(environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")
LENGTHS = [n for n in range(2, 4097, 2) if _fft.fits(n)]
# Of the largest value: what the rounding of float32 leaves is some 4e-7.
TOLERANCE = 1e-5 / 4


def test_lengths_that_fit_are_the_even_ones_without_large_factors():
    products = {2**a * 3**b * 5**c for a in range(1, 13) for b in range(8) for c in range(6)}
    assert sorted(n for n in products if n <= 4096) == LENGTHS
    assert {512, 640, 960, 1024, 1280, 1920, 2048, 4096} <= set(LENGTHS)
    assert not any(_fft.fits(n) for n in (-2, 0, 1, 3, 14, 4098, 4800, 8192))


# Elsewhere the same lengths run PyTorch's transforms.
@pytest.mark.skipif(_ext.cpu_isa() is None, reason="the C++ kernels are not loaded")
@pytest.mark.parametrize("lengths", [LENGTHS[i::4] for i in range(4)], ids=range(4))
def test_every_length_forward_and_inverse(lengths):
    for n in lengths:
        samples, window = torch.randn(3, n), torch.ones(n)
        spectrum = torch.ops.ussfast.framed_stft(samples, torch.zeros(3, dtype=torch.int64), window, n, n, 1)
        expected = torch.view_as_real(torch.fft.rfft(samples.double()))
        assert (spectrum[:, 0] - expected).abs().max() <= TOLERANCE * expected.abs().max(), n
        # Of two frames next to each other the second is returned in full.
        bins = torch.randn(1, 3, 2, n // 2 + 1, 2)
        audio = torch.ops.ussfast._masked_istft(bins, None, window, n, n, 3 * n // 2, False)[0, :, n // 2 :]
        expected = torch.fft.irfft(torch.view_as_complex(bins.double())[0, :, 1], n)
        assert (audio - expected).abs().max() <= TOLERANCE * expected.abs().max(), n


def build(target: Path, *flags: str) -> str:
    command = [*COMPILER, "-std=c++20", "-O1", "-pthread", *flags, str(HERE / "fft_teams.cpp"), "-o", str(target)]
    return subprocess.run(command, text=True, capture_output=True).stderr


# As in Makefile: without a compiler the package is plain PyTorch, and there is nothing to test.
@pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="no C++ compiler")
def test_teams_of_any_size_compute_the_same_without_races(tmp_path):
    program = tmp_path / "teams"
    trouble = build(program, "-g", "-fsanitize=thread")
    if "tsan" in trouble:  # a compiler that comes without the race detector still finds wrong partitions
        trouble = build(program)
    assert program.exists(), trouble
    for threads in ("1", "3", "8", "32"):
        run = subprocess.run([program, "check", threads], text=True, capture_output=True)
        assert run.returncode == 0, run.stdout + run.stderr[:3000]
    memory = int(subprocess.run([program, "memory"], check=True, text=True, capture_output=True).stdout)
    assert memory <= 163 << 10, "more shared memory than a block may have on sm_80"
