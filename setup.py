"""Builds the C++ extension; everything else about the package is in pyproject.toml.

USSFAST_SANITIZE=1 builds for AddressSanitizer and UndefinedBehaviorSanitizer: `make asan`.
USSFAST_BUILD=auto (default) builds what this machine can build and falls back, with a printed reason, to the CPU
kernels alone or to the pure Python package; cpu and cuda (which is both) must succeed; none builds nothing. What was
built, or why not, is recorded in ussfast/_build_info.json, where `ussfast info` reads it.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

TARGETS = ("auto", "cpu", "cuda", "none")
TARGET = os.environ.get("USSFAST_BUILD") or "auto"
if TARGET not in TARGETS:
    sys.exit(f"USSFAST_BUILD={TARGET}: expected one of {', '.join(TARGETS)}")

# Strict IEEE arithmetic (no -ffast-math): results must not depend on the instruction set beyond rounding.
# Only errno of sqrt is given up, and a multiplication and an addition may become one instruction.
# -Wno-psabi: vector types cross no function that is not inlined.
FLAGS = ["-O3", "-std=c++20", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fvisibility=hidden", "-g0"]
FLAGS += ["-Wall", "-Wno-psabi"]
# OpenMP is compiled in but not linked: its symbols come from the run-time library that torch has loaded,
# whatever that file is called, because a second one in the same process would compete for the cores.
LINK_FLAGS = ["-Wl,-z,now"]
if os.environ.get("USSFAST_SANITIZE") == "1":
    SANITIZE = "-fsanitize=address,undefined"
    FLAGS += ["-O1", "-g1", "-fno-omit-frame-pointer", SANITIZE, "-fno-sanitize-recover=all"]
    LINK_FLAGS += [SANITIZE]
NVCC_FLAGS = ["-O3", "-std=c++20"]
# Machine code for these GPUs where nvcc knows them, and PTX of the newest for those to come.
CAPABILITIES = ("80", "90", "100")

try:
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

    NO_TORCH = None
except ImportError as error:
    NO_TORCH = f"torch is not importable ({error}); install it first and build with --no-build-isolation"


def obstacle() -> str | None:
    """Why nothing can be compiled here, or None."""
    if TARGET == "none":
        return "USSFAST_BUILD=none"
    if NO_TORCH:
        return NO_TORCH
    compiler = shlex.split(os.environ.get("CXX") or "c++")[0]
    return None if shutil.which(compiler) else f"the C++ compiler {compiler!r} was not found (set CXX)"


def nvcc() -> str:
    return str(Path(CUDA_HOME or "") / "bin" / "nvcc")


def cuda_obstacle() -> str | None:
    """Why the CUDA kernels in C++ cannot be compiled here, or None. Triton's need no build."""
    if TARGET == "cpu":
        return "USSFAST_BUILD=cpu"
    if NO_TORCH:
        return NO_TORCH
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    return None if shutil.which(nvcc()) else "nvcc was not found (set CUDA_HOME or PATH)"


class Build(build_ext if NO_TORCH else BuildExtension):
    def run(self) -> None:
        cpu, cuda = obstacle(), cuda_obstacle()
        # CUDA kernels without CPU kernels are of no use; and what is bound to fail should not compile first.
        wanted = cuda if TARGET == "cuda" else None
        cpu = cpu or wanted or self.attempt("ussfast._C")
        cuda = cpu or cuda or self.attempt("ussfast._C_cuda")
        why_not = cuda if TARGET == "cuda" else cpu
        if why_not and TARGET in ("cpu", "cuda"):
            sys.exit(f"USSFAST_BUILD={TARGET}: {why_not}")
        info = {"target": TARGET, "built": [] if cpu else ["cpu"] if cuda else ["cpu", "cuda"], "why_not": cpu}
        if cpu:
            print(f"ussfast: no C++ kernels, the reference path is used instead: {cpu}", file=sys.stderr)
        elif cuda:
            print(f"ussfast: CPU kernels only, no CUDA C++: {cuda}", file=sys.stderr)
            info["why_not_cuda"] = cuda
        # No later step should look for files that do not exist.
        self.extensions = [e for e in EXTENSIONS if {"ussfast._C": "cpu"}.get(e.name, "cuda") in info["built"]]
        self.record(info)

    def attempt(self, name: str) -> str | None:
        """Builds one extension; returns why it could not."""
        inplace, self.extensions = self.inplace, [e for e in EXTENSIONS if e.name == name]
        self.compiler = None  # the name of the compiler, which a build replaces by an object
        try:
            super().run()
        except Exception as error:  # any toolchain trouble: ninja, compiler, linker
            self.inplace = inplace
            text = str(error).strip() or type(error).__name__
            return f"compilation failed: {text.splitlines()[0]}"
        return None

    def record(self, info: dict) -> None:
        package = Path("ussfast" if self.inplace else Path(self.build_lib) / "ussfast")
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build_info.json").write_text(json.dumps(info, indent=1) + "\n")


def cuda_targets() -> list[str]:
    """Options for the machine code that this nvcc can make, and for PTX."""
    known = subprocess.run([nvcc(), "--list-gpu-code"], check=True, text=True, capture_output=True).stdout.split()
    found = [c for c in CAPABILITIES if f"sm_{c}" in known]
    codes = [f"arch=compute_{c},code=sm_{c}" for c in found]
    return [f"-gencode={code}" for code in [*codes, f"arch=compute_{found[-1]},code=compute_{found[-1]}"]]


def sources(*patterns: str) -> list[str]:
    return sorted(str(path) for pattern in patterns for path in Path("csrc").glob(pattern))


def extensions() -> list[Extension]:
    # The libraries only register operators: no Python symbols, so one file serves every Python version.
    options = {"depends": sources("**/*.h", "**/*.cuh"), "py_limited_api": True}
    cpu = {"sources": sources("cpu/**/*.cpp"), **options}
    if NO_TORCH:
        return [Extension("ussfast._C", **cpu)]
    link = {"extra_link_args": LINK_FLAGS}
    made = [CppExtension("ussfast._C", extra_compile_args={"cxx": FLAGS}, **link, **cpu)]
    if obstacle() is None and cuda_obstacle() is None:
        flags = {"cxx": FLAGS, "nvcc": NVCC_FLAGS + cuda_targets()}
        cuda = {"sources": sources("cuda/*.cpp", "cuda/*.cu"), "extra_compile_args": flags}
        made.append(CUDAExtension("ussfast._C_cuda", **cuda, **link, **options))
    return made


EXTENSIONS = extensions()
setup(
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
