"""What TensorRT's Python bindings have: classes, members of enums and signatures, as tests/export/trt_names.json.

The bindings are a package of their own that needs no GPU, but their extension asks for libnvinfer, which is gigabytes:

    pip download --no-deps tensorrt-cu13-bindings==11.4.0.106 && unzip -d NEW tensorrt_cu13_bindings*.whl
    pip download --no-deps tensorrt-cu12-bindings==10.5.0 && unzip -d OLD tensorrt_cu12_bindings*.whl
    python scripts/trt_names.py OLD NEW -o tests/export/trt_names.json

The functions that the extension imports are built as empty ones by the C compiler, for as long as it takes to load it
and to write down what pybind11 says of it. The wheels are for one version of Python each: run this with that one.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

OUTPUT = Path(__file__).parents[1] / "tests" / "export" / "trt_names.json"
# What the builder, the parser and the runtime consist of, and what our code does not use but could be tempted to.
CLASSES = (
    "Builder", "BuilderFlag", "DataType", "Dims", "ErrorCode", "HardwareCompatibilityLevel", "IBuilderConfig",
    "ICudaEngine", "IExecutionContext", "IHostMemory", "ILogger", "INetworkDefinition", "IOptimizationProfile",
    "IProgressMonitor", "ITensor", "ITimingCache", "Logger", "MemoryPoolType", "NetworkDefinitionCreationFlag",
    "OnnxParser", "OnnxParserFlag", "ParserError", "PreviewFeature", "ProfilingVerbosity", "QuantizationFlag",
    "Runtime", "TensorIOMode", "TensorLocation",
)  # fmt: skip
# Of classes with hundreds of methods, such as one for each kind of layer, these.
ONLY = {"INetworkDefinition": r"num_|get_(in|out)put|name$|flags|get_flag|mark_"}
EMPTY = """
#include <stddef.h>
void* createInferBuilder_INTERNAL(void) { return NULL; }
void* createInferRefitter_INTERNAL(void) { return NULL; }
void* createInferRuntime_INTERNAL(void) { return NULL; }
void* createNvOnnxParserRefitter_INTERNAL(void) { return NULL; }
void* createNvOnnxParser_INTERNAL(void) { return NULL; }
void* getBuilderPluginRegistry(void) { return NULL; }
void* getPluginRegistry(void) { return NULL; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void) { return 1; }
"""


def stub(extension: Path, folder: Path) -> None:
    """Builds the libraries that the extension asks for, empty."""
    source = folder / "empty.c"
    source.write_text(EMPTY)
    for name in set(re.findall(rb"lib(?:nvinfer|nvinfer_plugin|nvonnxparser)\.so\.\d+", extension.read_bytes())):
        library = name.decode()
        subprocess.run(
            ["cc", "-shared", "-fPIC", str(source), f"-Wl,-soname,{library}", "-o", str(folder / library)], check=True
        )


def read(folder: str | os.PathLike[str]) -> dict:
    """The names of one package: a folder that holds `tensorrt_bindings`."""
    return json.loads(run(folder, "import json, trt_names; print(json.dumps(trt_names.names()))"))


def run(folder: str | os.PathLike[str], code: str) -> str:
    """What a program prints that may import the bindings; SystemExit where it fails."""
    folder = Path(folder).resolve()
    with tempfile.TemporaryDirectory() as libraries:
        stub(folder / "tensorrt_bindings" / "tensorrt.so", Path(libraries))
        paths = os.pathsep.join((str(folder), str(Path(__file__).parents[1])))
        env = {**os.environ, "LD_LIBRARY_PATH": libraries, "PYTHONPATH": paths}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=env, cwd=Path(__file__).parent, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{folder}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def names() -> dict:
    """In a process that can import the bindings."""
    import tensorrt_bindings as trt  # type: ignore[import-not-found]

    found = {name: described(getattr(trt, name), ONLY.get(name, "")) for name in CLASSES if hasattr(trt, name)}
    return {"version": trt.__version__, "classes": found, "functions": sorted(plain_functions(trt))}


def plain_functions(trt) -> list[str]:
    return [name for name in dir(trt) if type(getattr(trt, name)).__name__ == "builtin_function_or_method"]


def described(cls: type, only: str) -> dict:
    members = getattr(cls, "__members__", None)
    if members is not None:
        return {"members": {name: int(value) for name, value in members.items()}}
    methods, properties, nested = {}, {}, {}
    for name in dir(cls):
        value = getattr(cls, name)
        if (name.startswith("_") and name != "__init__") or not re.match(only, name):
            continue
        if isinstance(value, property):
            kind = re.search(r"-> (.+)", value.fget.__doc__ or "") if value.fget else None
            properties[name] = [short(kind[1]) if kind else "object", "rw" if value.fset else "r"]
        elif isinstance(value, type):
            nested[name] = described(value, "")
        elif signatures := [short(line) for line in re.findall(r"(?m)^(?:\d+\. )?\w+(\(self.*)$", value.__doc__ or "")]:
            methods[name] = signatures
    return {"methods": methods, "properties": properties} | ({"nested": nested} if nested else {})


def short(text: str) -> str:
    """Without the module, and C++ names of what pybind11 did not know yet as those that Python has for it."""
    plain = re.sub(r"\b(?:nvinfer1|nvonnxparser)::(?:v_\d+_\d+::)?|tensorrt_bindings\.tensorrt\.", "", text)
    return plain.replace("IParserError", "ParserError").strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="unpacked wheels")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    found = sorted((read(folder) for folder in given.folders), key=lambda one: one["version"])
    table = {"made_by": "scripts/trt_names.py", "packages": {one["version"]: one for one in found}}
    given.output.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
