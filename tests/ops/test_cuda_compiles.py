"""The CUDA kernels in C++ compile to machine code for real GPUs, link and register: no GPU is needed for this."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths

SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"
NVCC = shutil.which("nvcc") or shutil.which(os.path.join(os.environ.get("CUDA_HOME") or "/usr/local/cuda", "bin/nvcc"))
# nvcc is no part of the Python environment that `make test` makes; machines without it run no CUDA C++ either.
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")

ARCHITECTURES = ("80", "90", "100")
KERNELS = {path.stem: 1 for path in SOURCES.glob("*.cu")} | {"masked_istft": 2}  # for masks in float32 and bfloat16
# As on a machine with a GPU, up to the first call of a kernel.
LOAD = """
import pathlib, sys, torch
import ussfast.ops
from ussfast import _ext
from ussfast.ops._op import GRADIENTS, LIB
from ussfast.ops import _fft
assert not _fft.has_masked_istft(torch.device("cuda"), 1280)
torch.cuda.is_available = lambda: True
_ext._HERE = pathlib.Path(sys.argv[1])
print(_ext._load_cuda(LIB, GRADIENTS))
print({row["op"]: row["kernel"] for row in _ext.kernels() if row["device"] == "cuda"}["framed_stft"])
print(_fft.has_masked_istft(torch.device("cuda"), 1280), _fft.has_masked_istft(torch.device("cuda"), 1282))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """A folder with the objects, and what nvcc said about each; all compile at a time."""
    folder, running = tmp_path_factory.mktemp("cuda"), []

    def compile(path: Path, *options: str) -> None:
        command = [NVCC, "-c", "-std=c++20", *options, path, "-o", folder / f"{path.stem}.o"]
        with open(folder / f"{path.stem}.log", "w") as log:
            running.append(subprocess.Popen(command, stderr=log))

    known = subprocess.run([NVCC, "--list-gpu-code"], check=True, text=True, capture_output=True).stdout.split()
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES if f"sm_{a}" in known]
    # nvcc hands .cpp files to the C++ compiler, and knows where its own headers are.
    compile(SOURCES / "register.cpp", "-O0", "-Xcompiler=-fPIC,-Wall,-Wno-psabi", *(f"-I{p}" for p in include_paths()))
    for name in KERNELS:
        compile(SOURCES / f"{name}.cu", "-O3", "-Xcompiler=-fPIC", "-Xptxas=-v", "-Werror=all-warnings", *codes)
    failed = [process.wait() for process in running]
    assert not any(failed), "\n".join(log.read_text()[-2000:] for log in folder.glob("*.log"))
    return folder


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_need_few_registers_and_spill_none(compiled, name):
    log = (compiled / f"{name}.log").read_text()
    targets = re.findall(r"Compiling entry function '\w*" + name + r"_kernel\w*' for 'sm_(\w+)'", log)
    assert set(targets) >= {"80", "90"} and len(targets) == KERNELS[name] * len(set(targets))
    memory = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert memory == [("0", "0", "0")] * len(targets), log
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", log)]
    print(name, *(f"sm_{t}: {n} registers" for t, n in zip(targets, registers, strict=True)), sep="\n")
    assert max(registers) <= 64, "fewer than eight blocks of 128 threads fit a multiprocessor"
    # All shared memory is dynamic; tests/ops/test_fft.py has its amount.
    assert sum(int(n) for n in re.findall(r"(\d+) bytes smem", log)) <= 48 << 10


def test_the_launcher_compiles_links_and_registers_with_any_torch(compiled):
    library, objects = compiled / "_C_cuda.so", sorted(compiled.glob("*.o"))
    torch_libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-lc10", "-ltorch_cpu"]
    link = [NVCC, "-shared", *objects, *torch_libraries, "-Xlinker=-z,defs", "-o", library]
    subprocess.run(link, check=True)
    run = subprocess.run([sys.executable, "-c", LOAD, compiled], text=True, capture_output=True)
    assert run.stdout.splitlines() == ["None", "cuda c++", "True False"], run.stdout + run.stderr[-2000:]
