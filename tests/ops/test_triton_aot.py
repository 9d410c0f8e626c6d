"""Every Triton kernel compiles to machine code for real GPUs, on any machine: no GPU is needed for this."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

# triton is an extra; `make test` installs it, so this runs in CI.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

# In a process of its own: this one may have loaded Triton in interpreter mode, which cannot compile.
COMPILE = """
import json, re, subprocess, sys, tempfile
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ussfast.ops._triton import rms_group_norm as module

results = []
for capability in (80, 90):
    for pointer, dtype in (("*fp32", torch.float32), ("*bf16", torch.bfloat16), ("*fp64", torch.float64)):
        for width in (16, 21):
            signature = dict.fromkeys(("x", "w", "y"), pointer)
            signature |= dict.fromkeys(("rows", "groups", "width"), "i32") | {"eps": "fp32"}
            constants = module.launch_options(width, dtype)
            signature |= dict.fromkeys(constants, "constexpr")
            source = ASTSource(module._rms_group_norm_fwd_kernel, signature, constexprs=constants)
            binary = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
                file.write(binary.asm["ptx"])
                file.flush()
                target = re.search(r"\\.target (sm_\\w+)", binary.asm["ptx"])[1]  # sm_90 becomes sm_90a
                ptxas = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={target}", "-o", "/dev/null"]
                ptxas = subprocess.run([*ptxas, file.name], check=True, text=True, stderr=subprocess.PIPE)
            results.append(dict(
                name=f"{target} {pointer} {width}", ptx=binary.asm["ptx"],
                cubin=binary.asm["cubin"][:4].hex(),
                spills=[int(n) for n in re.findall(r"(\\d+) bytes spill", ptxas.stderr)],
                registers=int(re.search(r"Used (\\d+) registers", ptxas.stderr)[1])))
json.dump(results, open(sys.argv[1], "w"))
"""


def test_rms_group_norm_compiles_for_ampere_and_hopper(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", COMPILE, tmp_path / "out"]
    run = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr[-2000:]
    results = json.loads((tmp_path / "out").read_text())
    print(*(f"{k['name']}: {k['registers']} registers" for k in results), sep="\n")
    assert len(results) == 12
    for kernel in results:
        assert ".entry _rms_group_norm_fwd_kernel" in kernel["ptx"], kernel["name"]
        assert ("sqrt" in kernel["ptx"]) and ("st.global" in kernel["ptx"]), kernel["name"]
        assert kernel["cubin"] == b"\x7fELF".hex(), kernel["name"]
        assert kernel["spills"] == [0, 0], f"{kernel['name']} spills registers"
        assert kernel["registers"] <= 128, f"{kernel['name']} uses {kernel['registers']} registers"
