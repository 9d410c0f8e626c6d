"""Compiles every Triton kernel for real GPUs on any machine: `python -m ussfast.ops.aot --arch 80,90,100 --check`.

Each file in ops/_triton has `specimens`: launchers with arguments on the "meta" device, as the models have them. The
calls that these launchers would make on such a GPU are compiled with their default tiles (--all: every candidate), and
the table says what the machine code needs: registers, spilled bytes, shared memory, matrix instructions.
"""

import argparse
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Shared memory that one block may have, in bytes (CUDA C++ Programming Guide, compute capabilities).
SHARED_LIMIT = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
MATRIX = re.compile(r"wgmma\.mma_async|mma\.sync|tcgen05\.mma")


@dataclass(frozen=True)
class Report:
    """What one kernel became on one architecture; sizes in bytes, per thread (registers, spills) or block."""

    kernel: str
    specimen: str
    arch: int
    tile: str
    registers: int = 0
    spilled: int = 0
    shared: int = 0
    matrix: int = 0
    problem: str = ""


def modules() -> list[Any]:
    """The files of ops/_triton that have kernels, imported."""
    from ussfast.ops import _triton

    names = (m.name for m in pkgutil.iter_modules(_triton.__path__) if not m.name.startswith("_"))
    return [importlib.import_module(f"{_triton.__name__}.{name}") for name in names]


def jobs(archs: list[int], every: bool, only: str = "") -> Iterator[tuple[str, int, int, int, int]]:
    """(module, specimen, call, tile, arch) of everything to be compiled; equal code is compiled once."""
    from ussfast.ops._triton._launch import recording

    for arch in archs:
        seen = set()
        for module in modules():
            for s, (_, launcher, arguments) in enumerate(module.specimens()):
                if only not in module.__name__:
                    continue
                with recording(arch) as calls:
                    launcher(*arguments)
                for c, call in enumerate(calls):
                    for t, tile in enumerate(call.tiles if every else call.tiles[:1]):
                        signature = (call.name, str(source(call, tile)[1:]), str(tile))
                        if signature not in seen:
                            seen.add(signature)
                            yield module.__name__, s, c, t, arch


def source(call: Any, tile: Any) -> tuple[Any, dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """Kernel, signature, constants and attributes as Triton's run time specialises them for these arguments."""
    import torch
    from triton.runtime.jit import type_canonicalisation_dict as names

    signature, constants, attributes = {}, dict(call.constants) | dict(tile.blocks), {}
    for index, name in enumerate(call.kernel.arg_names):
        value = call.arguments.get(name)
        if name in constants:
            signature[name] = "constexpr"
        elif value is None or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif torch.is_tensor(value):
            signature[name] = "*" + names[str(value.dtype)[6:]]
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, bool):
            signature[name] = "i1"
        elif isinstance(value, int):
            signature[name] = "i32" if value.bit_length() < 32 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    return call.kernel, signature, constants, attributes


def compile_one(job: tuple[str, int, int, int, int]) -> Report:
    """Compiles one call and reads what ptxas says about it."""
    from ussfast.ops._triton._launch import recording

    module, s, c, t, arch = job
    label, launcher, arguments = list(importlib.import_module(module).specimens())[s]
    with recording(arch) as calls:
        launcher(*arguments)
    call = calls[c]
    tile = call.tiles[t]
    blocks = " ".join(f"{name} {value}" for name, value in tile.blocks)
    about = (call.name, label, arch, f"{blocks}, {tile.num_warps} warps, {tile.num_stages} stages")
    try:
        return _compile(call, tile, arch, about)
    except Exception as error:  # whatever the compiler stumbles over is the finding
        return Report(*about, problem=f"does not compile: {(str(error).splitlines() or [type(error).__name__])[0]}")


def _compile(call: Any, tile: Any, arch: int, about: tuple[str, str, int, str]) -> Report:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, signature, constants, attributes = source(call, tile)
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    built = triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", arch, 32),
        options=options,
    )
    registers, spilled = resources(built.asm["ptx"], arch)
    report = Report(*about, registers, spilled, built.metadata.shared, len(MATRIX.findall(built.asm["ptx"])))
    return Report(**(asdict(report) | {"problem": problem(report, call.matrix, built.asm["cubin"])}))


def resources(ptx: str, arch: int) -> tuple[int, int]:
    """Registers per thread and spilled bytes (stores and loads) that ptxas reports."""
    import triton

    knobs = triton.knobs.nvidia
    ptxas = knobs.ptxas_blackwell.path if arch >= 100 else knobs.ptxas.path
    target = re.search(r"\.target (sm_\w+)", ptx)
    assert target
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [ptxas, "-v", f"--gpu-name={target[1]}", "-o", os.devnull, file.name]
        said = subprocess.run(command, check=True, text=True, stderr=subprocess.PIPE).stderr
    used = re.search(r"Used (\d+) registers", said)
    assert used, said
    return int(used[1]), sum(map(int, re.findall(r"(\d+) bytes spill", said)))


def problem(report: Report, matrix: bool, cubin: bytes) -> str:
    """What is wrong with it, or ""."""
    limit = SHARED_LIMIT.get(report.arch, max(SHARED_LIMIT.values()))
    found = []
    if not cubin.startswith(b"\x7fELF"):
        found.append("no machine code")
    if report.spilled:
        found.append(f"spills {report.spilled} bytes")
    if report.shared > limit:
        found.append(f"needs {report.shared} bytes of shared memory, the chip has {limit}")
    if matrix and not report.matrix:
        found.append("no matrix instruction")
    return ", ".join(found)


def check(archs: list[int], every: bool = False, only: str = "", workers: int | None = None) -> list[Report]:
    """Compiles everything, several at a time."""
    found = list(jobs(archs, every, only))
    # The interpreter, if a test has switched it on, replaces the compiler: workers are fresh processes without it.
    with ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn"), _compiler_on) as pool:
        return list(pool.map(compile_one, found))


def _compiler_on() -> None:
    os.environ["TRITON_INTERPRET"] = "0"


def table(reports: list[Report]) -> str:
    rows = [[field.name for field in fields(Report)]]
    rows += [[str(value) for value in asdict(report).values()] for report in reports]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (map(str.ljust, row, widths) for row in rows)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ussfast.ops.aot", description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="80,90,100", help="compute capabilities (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a kernel has a problem")
    parser.add_argument("--all", action="store_true", help="every candidate tile, not only the defaults")
    parser.add_argument("--only", default="", metavar="OP", help="only ops whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    try:
        archs = [int(arch) for arch in options.arch.split(",")]
    except ValueError:
        parser.error(f"--arch {options.arch}: expected numbers such as 80,90,100")
    try:
        importlib.import_module("triton")
    except ImportError as error:
        parser.error(f"triton cannot be imported ({error}); pip install 'ussfast[triton]'")
    reports = check(archs, options.all, options.only)
    print(table(reports))
    wrong = [report for report in reports if report.problem]
    print(f"{len(reports)} kernels compiled, {len(wrong)} with a problem")
    if options.json:
        options.json.write_text(json.dumps([asdict(report) for report in reports], indent=1) + "\n")
    return 1 if options.check and (wrong or not reports) else 0


if __name__ == "__main__":
    sys.exit(main())
