"""Code that calls TensorRT uses what its bindings have, from the oldest version that we take to the newest."""

import ast
import importlib.util
import inspect
import shutil
import sys
from pathlib import Path

import pytest
from small_export import small_export
from trt_stand_in import NEWEST, OLDEST, VERSIONS, StandIn, packages, parsed
from trt_world import Machine, World

import ussfast.engine.backends.trt as backend
from ussfast.engine.backends.trt_engines import logger_of
from ussfast.export.trt import build_engines, versions
from ussfast.export.trt.progress import Bar, monitor_of

ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("ussfast/export/trt/*.py"), *ROOT.glob("ussfast/engine/backends/trt*.py")]


def chains(source: str) -> set[tuple[str, ...]]:
    """Names behind `trt.` and `self._trt.`: trt.A.B as ("A", "B")."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names, node = [node.attr, *names], node.value
        if isinstance(node, ast.Name) and node.id == "self" and names[:1] == ["_trt"]:
            names = names[1:]
        elif not (isinstance(node, ast.Name) and node.id == "trt"):
            continue
        if names:
            found.add(tuple(names))
    return found


def lacking(source: str, version: str) -> list[str]:
    """What a file expects of the module and its classes, and a version does not have."""
    absent, module = [], StandIn(version)
    for chain in chains(source):
        value = module
        for name in chain:
            value = getattr(value, name, None)
            if value is None:
                absent.append(".".join(chain))
                break
    return sorted(absent)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_name_in_the_source_is_one_of_the_bindings(path, version):
    assert not lacking(path.read_text(), version)


def test_names_that_were_removed_are_found():
    found = chains("trt.BuilderFlag.TF32; self._trt.DataType.HALF; trt.Logger(trt.X)")
    assert found >= {("BuilderFlag", "TF32"), ("DataType", "HALF"), ("Logger",), ("X",)}
    assert lacking("config.set_flag(trt.BuilderFlag.FP16)", NEWEST) == ["BuilderFlag.FP16"]
    assert not lacking("config.set_flag(trt.BuilderFlag.FP16)", OLDEST)


def test_a_build_that_used_a_removed_flag_would_fail(monkeypatch, tmp_path):
    """The flag of TensorRT 10, set where the network is made."""
    create = versions.create_network

    def old(trt, builder):
        builder.create_builder_config().set_flag(trt.BuilderFlag.FP16)
        return create(trt, builder)

    monkeypatch.setattr(versions, "create_network", old)
    monkeypatch.setattr(backend, "Cuda", Machine)
    monkeypatch.setenv("USSFAST_CACHE", str(tmp_path))
    export = small_export(tmp_path / "export")
    monkeypatch.setitem(sys.modules, "tensorrt", World(OLDEST).trt)
    build_engines(export, check=False, progress=False)
    monkeypatch.setitem(sys.modules, "tensorrt", World(NEWEST).trt)
    export = small_export(tmp_path / "other")
    with pytest.raises(AttributeError, match="FP16"):
        build_engines(export, check=False, progress=False)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda trt, builder, config: config.set_flag(1),
        lambda trt, builder, config: config.set_flag(trt.MemoryPoolType.WORKSPACE),
        lambda trt, builder, config: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        lambda trt, builder, config: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 0.5),
        lambda trt, builder, config: config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, size=1),
        lambda trt, builder, config: builder.create_network(explicit_batch=True),
        lambda trt, builder, config: builder.create_optimization_profile().set_shape("x", (1,), (1,)),
        lambda trt, builder, config: builder.create_optimization_profile().set_shape("x", (1,), (1,), ("n",)),
        lambda trt, builder, config: setattr(config, "progress_monitor", object()),
        lambda trt, builder, config: trt.OnnxParser(builder.create_network()),
        lambda trt, builder, config: trt.Runtime("not a logger"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_calls_with_other_arguments_fail(version, wrong):
    trt = StandIn(version)
    builder = trt.Builder(trt.ILogger())
    with pytest.raises(TypeError):
        wrong(trt, builder, builder.create_builder_config())


@pytest.mark.parametrize("gone", ["max_workspace_size", "build_engine", "int8_calibrator", "platform_has_fast_fp16"])
def test_what_the_newest_version_does_not_have_is_not_there(gone):
    trt = StandIn(NEWEST)
    builder = trt.Builder(trt.ILogger())
    assert not hasattr(builder, gone) and not hasattr(builder.create_builder_config(), gone)


@pytest.mark.parametrize("version", VERSIONS)
def test_methods_of_our_classes_are_those_that_tensorrt_calls(version):
    trt, classes = StandIn(version), packages()[version]["classes"]
    ours = [("ILogger", logger_of(trt)), ("IProgressMonitor", monitor_of(trt, Bar("x", False), None))]  # type: ignore[arg-type]
    for base, instance in ours:
        assert isinstance(instance, getattr(trt, base))
        for method, (signature, *_) in classes[base]["methods"].items():
            names = [name for name, *_ in parsed(signature)[0]][1:]
            if method != "__init__":
                assert method in type(instance).__dict__
                assert list(inspect.signature(getattr(instance, method)).parameters) == names


def test_signatures_are_read_with_their_types_and_defaults():
    parameters, returned = parsed("(self: A, b: typing.SupportsInt = 0, c: list[list[int]]) -> ITensor")
    assert parameters == [("self", "A", False), ("b", "typing.SupportsInt", True), ("c", "list[list[int]]", False)]
    assert returned == "ITensor"


@pytest.fixture(scope="module")
def bindings():
    """Runs programs with the bindings that are installed; without, the tests that follow say what is missing."""
    spec = importlib.util.find_spec("tensorrt_bindings")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("no tensorrt_bindings here: pip install tensorrt-cu13-bindings")
    if shutil.which("cc") is None:
        pytest.skip("the names are read with a C compiler, and there is none")
    named = importlib.util.spec_from_file_location("trt_names", ROOT / "scripts" / "trt_names.py")
    module = importlib.util.module_from_spec(named)
    named.loader.exec_module(module)
    return module, Path(spec.submodule_search_locations[0]).parent


def test_the_names_are_those_of_the_bindings_that_are_installed(bindings):
    module, folder = bindings
    found = module.read(folder)
    known = packages().get(found["version"])
    if known is None:  # a version that came later: what we use must be there
        pytest.skip(f"trt_names.json has {', '.join(VERSIONS)}, installed is {found['version']}")
    assert found == known


REAL = """
import sys, threading
import tensorrt_bindings as trt
sys.modules["tensorrt"] = trt
from ussfast.engine.backends.trt import _torch_dtype
from ussfast.engine.backends.trt_engines import logger_of, started, tensorrt
from ussfast.errors import DeviceError
from ussfast.export.trt.progress import Bar, monitor_of
assert tensorrt() is trt
logger = logger_of(trt)
logger.log(trt.ILogger.Severity.ERROR, "what went wrong")
assert isinstance(logger, trt.ILogger) and logger.errors == ["what went wrong"]
cancelled = threading.Event()
monitor = monitor_of(trt, Bar("x", False), cancelled)
monitor.phase_start("a", None, 3)
assert isinstance(monitor, trt.IProgressMonitor) and monitor.step_complete("a", 0)
cancelled.set()
assert not monitor.step_complete("a", 1)
names = ("FLOAT", "HALF", "BF16", "INT32", "INT64", "INT8", "UINT8", "BOOL")
assert len({_torch_dtype(trt, getattr(trt.DataType, name), "x") for name in names}) == len(names)
assert tuple(trt.Dims((1, 2))) == (1, 2)
for make in (trt.Builder, trt.Runtime):  # the empty libraries have none
    try:
        started(make, logger)
    except DeviceError as error:
        assert str(error).endswith("what went wrong"), error
print("fine")
"""


def test_our_classes_are_what_the_bindings_take(bindings):
    module, folder = bindings
    assert module.run(folder, REAL).strip().endswith("fine")
