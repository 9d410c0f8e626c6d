"""The tree keeps its shape: every op has its files, every kernel its op, and no file grows long."""

import re
import subprocess
from pathlib import Path

import ussfast.ops  # noqa: F401  (registers the ops)
from ussfast.ops._op import OPS

ROOT = Path(__file__).parents[1]
LONGEST = 300
# Files that may be longer, each with the reason.
ALLOWED_LONG: dict[str, str] = {}
# C++ that is no op: what all kernels share, sample-rate conversion, which no model calls, the step of the causal model,
# which changes its arguments, as ops never do, and what the op stft_mask calls on a GPU.
NO_OPS = {"isa", "shared", "resample", "trunk_step", "masked_istft", "register"}
# csrc/common: what host and GPU share, next to the headers that are named like the op or function they are about.
COMMON = {"butterflies", "fft", "fft_plan", "reference", "team", "tensors"}


def ours() -> list[Path]:
    """Source files of the project: all in our folders, less what git ignores where there is git."""
    folders = ("ussfast", "csrc", "tests", "bench", "export", "fuzz", "scripts")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    found += [ROOT / "setup.py", ROOT / "Makefile"]
    suffixes = {".py", ".cpp", ".cu", ".cuh", ".h", ".js", ".mjs", ""}
    listed = [p for p in found if p.suffix in suffixes and p.is_file() and "__pycache__" not in p.parts]
    names, command = "\n".join(map(str, listed)), ["git", "check-ignore", "--stdin"]
    ignored = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, input=names).stdout
    return [path for path in listed if str(path) not in ignored.splitlines()]


def test_every_op_has_a_module_a_bench_and_a_kernel():
    assert OPS
    for name in OPS:
        assert (ROOT / f"ussfast/ops/{name}.py").is_file()
        assert (ROOT / f"bench/ops/bench_{name}.py").is_file(), f"{name} has no bench"
        kernels = [f"csrc/cpu/{name}.cpp", f"csrc/cuda/{name}.cu", f"ussfast/ops/_triton/{name}.py"]
        kernels.append(f"ussfast/ops/_triton/{name}/__init__.py")  # a room where one file is too small
        assert any((ROOT / kernel).is_file() for kernel in kernels), f"{name} has no kernel: why is it an op?"


def test_every_kernel_and_op_module_belongs_to_an_op():
    files = [*ROOT.glob("csrc/*/*.cpp"), *ROOT.glob("csrc/*/*.cu"), *ROOT.glob("csrc/common/*.h")]
    files += [*ROOT.glob("ussfast/ops/*.py"), *ROOT.glob("ussfast/ops/_triton/*.py")]
    files += [room for room in ROOT.glob("ussfast/ops/_triton/*") if room.is_dir()]
    files += ROOT.glob("bench/ops/bench_*.py")
    shared = {*NO_OPS, *COMMON, "aot"}  # and what begins with an underscore
    kinds = {p: p.stem.removeprefix("bench_") for p in files if not p.stem.startswith("_")}
    strays = [str(p.relative_to(ROOT)) for p, kind in kinds.items() if kind not in {*OPS, *shared}]
    assert not strays


def registered(path: Path) -> list[str]:
    return re.findall(r'm\.impl\("(\w+)"', path.read_text())


def test_a_kernel_registers_its_own_op():
    for path in ROOT.glob("csrc/cpu/*.cpp"):
        assert path.stem in NO_OPS or registered(path) == [path.stem], f"{path.name} registers {registered(path)}"


def test_one_file_registers_every_cuda_kernel():
    kernels = {path.stem for path in ROOT.glob("csrc/cuda/*.cu")}
    assert {name.removeprefix("_") for name in registered(ROOT / "csrc/cuda/register.cpp")} == kernels
    for path in ROOT.glob("csrc/cuda/*.cu*"):
        assert not re.search(r"#include <(ATen|c10|torch)", path.read_text()), f"{path.name} must do without PyTorch"


def test_files_stay_short():
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in ours()}
    assert {"ussfast/ops/_op.py", "csrc/cpu/isa.h", "setup.py", "Makefile"} <= lengths.keys()
    long = {name: n for name, n in lengths.items() if n > LONGEST and name not in ALLOWED_LONG}
    assert not long, f"over {LONGEST} lines: {long}"
    assert ALLOWED_LONG.keys() <= lengths.keys(), "an allowance for a file that is gone"


def test_files_of_tests_have_names_of_their_own():
    """pytest imports them by their name alone, and of two it collects one."""
    names = [path.name for path in ROOT.glob("tests/**/test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_no_merge_is_left_half_done():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "bench" / "NOTES.md"]
    for path in [*ours(), *pages]:
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE), path
