"""Builds the C++ extension; everything else about the package is in pyproject.toml.

USSFAST_BUILD=auto (default) builds what this machine can build and falls back to the pure Python package
with a printed reason; cpu or cuda must succeed; none builds nothing. What was built, or why not, is recorded
in ussfast/_build_info.json, where `ussfast info` reads it.
"""

import json
import os
import shlex
import shutil
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

try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    NO_TORCH = None
except ImportError as error:
    NO_TORCH = f"torch is not importable ({error}); install it first and build with --no-build-isolation"


def obstacle() -> str | None:
    """Why nothing can be compiled here, or None."""
    if TARGET == "none":
        return "USSFAST_BUILD=none"
    if TARGET == "cuda":
        return "there are no CUDA C++ sources: GPU kernels are written in Triton and need no build"
    if NO_TORCH:
        return NO_TORCH
    compiler = shlex.split(os.environ.get("CXX") or "c++")[0]
    return None if shutil.which(compiler) else f"the C++ compiler {compiler!r} was not found (set CXX)"


class Build(build_ext if NO_TORCH else BuildExtension):
    def run(self) -> None:
        inplace, why_not = self.inplace, obstacle()
        if why_not is None:
            try:
                super().run()
            except Exception as error:  # any toolchain trouble: ninja, compiler, linker
                text = str(error).strip() or type(error).__name__
                why_not = f"compilation failed: {text.splitlines()[0]}"
                self.inplace = inplace
        if why_not and TARGET in ("cpu", "cuda"):
            sys.exit(f"USSFAST_BUILD={TARGET}: {why_not}")
        if why_not:
            print(f"ussfast: no C++ kernels, the reference path is used instead: {why_not}", file=sys.stderr)
            self.extensions = []  # so that no later step looks for files that do not exist
        self.record({"target": TARGET, "built": [] if why_not else ["cpu"], "why_not": why_not})

    def record(self, info: dict) -> None:
        package = Path("ussfast" if self.inplace else Path(self.build_lib) / "ussfast")
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build_info.json").write_text(json.dumps(info, indent=1) + "\n")


def extension() -> Extension:
    sources = sorted(str(path) for path in Path("csrc/cpu").rglob("*.cpp"))
    headers = sorted(str(path) for path in Path("csrc").rglob("*.h"))
    # The library only registers operators: no Python symbols, so one file serves every Python version.
    options = {"sources": sources, "depends": headers, "py_limited_api": True}
    if NO_TORCH:
        return Extension("ussfast._C", **options)
    flags = {"extra_compile_args": {"cxx": FLAGS}, "extra_link_args": LINK_FLAGS}
    return CppExtension("ussfast._C", **flags, **options)


setup(
    ext_modules=[extension()],
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
