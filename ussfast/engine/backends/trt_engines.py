"""TensorRT engines on disk: which of them is for this GPU, this TensorRT and this graph."""

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from ussfast.errors import CheckpointError, DeviceError, InputError
from ussfast.plain import Checked, Name, Range, check_known, convert, read_json

OLDEST = (10, 5)
LOG = logging.getLogger("ussfast.tensorrt")
Digest = Annotated[str, Range(64, 64)]


@dataclass(frozen=True)
class EngineKey(Checked):
    """What an engine was built for; it runs nowhere else.

    gpu: name of the GPU. capability: its compute capability, such as "9.0". tensorrt: version. sha256: of the ONNX
    file and of the weights beside it.
    """

    gpu: Name
    capability: Name
    tensorrt: Name
    sha256: Digest

    def __str__(self) -> str:
        slug = re.sub(r"\W+", "-", self.gpu).strip("-").lower()
        return f"{slug}-sm{self.capability.replace('.', '')}-trt{self.tensorrt}-{self.sha256[:12]}"

    def where(self) -> str:
        return f"{self.gpu} (compute capability {self.capability}) with TensorRT {self.tensorrt}"


@dataclass(frozen=True)
class EngineFile(Checked):
    """The file beside an engine, NAME.<key>.json, as far as it is needed to run it; it is written after the engine.

    engine_sha256: of the engine. bytes: its size.
    """

    key: EngineKey
    engine_sha256: Digest
    bytes: Annotated[int, Range(1, 1 << 50)]


def tensorrt() -> Any:
    """The module `tensorrt`; DeviceError where it is missing, broken or too old."""
    try:
        import tensorrt as trt
    except Exception as error:  # a library that is missing or of another version is no ImportError everywhere
        why = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise DeviceError(f"TensorRT is not installed{why}: pip install 'ussfast[trt]'") from None
    if version_of(trt) < OLDEST:
        raise DeviceError(f"TensorRT {trt.__version__} is too old: {OLDEST[0]}.{OLDEST[1]} or newer is needed")
    return trt


def version_of(trt: Any) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", trt.__version__)
    if numbers is None:
        raise DeviceError(f"TensorRT has an unknown version {trt.__version__!r}")
    return int(numbers[1]), int(numbers[2])


def external_weights(onnx: Path) -> list[Path]:
    """What belongs to an ONNX file and lies beside it: NAME.onnx*.data and NAME.data."""
    return sorted({*onnx.parent.glob(f"{onnx.name}*.data"), *onnx.parent.glob(f"{onnx.stem}.data")})


def fingerprint(onnx: Path) -> str:
    """SHA-256 of an ONNX file and of its external weights."""
    digest = hashlib.sha256()
    for path in [onnx, *external_weights(onnx)]:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def engine_path(onnx: Path, key: EngineKey) -> Path:
    return onnx.with_name(f"{onnx.stem}.{key}.engine")


def sidecar_path(engine: Path) -> Path:
    return engine.with_suffix(".json")


def sidecar(engine: Path) -> dict[str, Any] | None:
    """What stands beside an engine; None where the engine or it is missing, as after a build that was ended.

    Raises CheckpointError where it is no such file.
    """
    path = sidecar_path(engine)
    if not engine.is_file() or not path.is_file():
        return None
    try:
        data = read_json(path)
        check_known(EngineFile, data, path.name)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}; remove it and build the engine again") from None
    return data


def read_engine(onnx: Path, key: EngineKey) -> bytes:
    """The engine of a graph for `key`.

    Raises:
        DeviceError: there is none, or only for other GPUs, versions or for what the ONNX file was before.
        CheckpointError: it is damaged.
    """
    path = engine_path(onnx, key)
    found = sidecar(path)
    if found is None:
        raise DeviceError(
            f"{onnx.parent}: no engine of {onnx.name} for {key.where()}{_others(onnx, key)}; {_how(onnx)}"
        )
    data = path.read_bytes()
    if found["key"] != asdict(key) or found["bytes"] != len(data) or found["engine_sha256"] != sha256_of(data):
        raise CheckpointError(f"{path}: damaged, or not the file that was built; remove it: {_how(onnx)}")
    return data


def _others(onnx: Path, key: EngineKey) -> str:
    """What the engines that there are were built for."""
    found = []
    for path in sorted(onnx.parent.glob(f"{onnx.stem}.*.engine")):
        data = sidecar(path)
        if data is not None:
            other = convert(EngineKey, data["key"], "key")
            changed = " before the ONNX file was changed" if other.sha256 != key.sha256 else ""
            found.append(f"{other.where()}{changed}")
    return f", only for {', '.join(found)}" if found else ""


def _how(onnx: Path) -> str:
    return f"build it on this machine: python -m ussfast.export.trt {onnx.parent}"


def logger_of(trt: Any) -> Any:
    """An ILogger that writes into the log `ussfast.tensorrt`; its `errors` are the latest messages of that kind."""
    severities = trt.ILogger.Severity
    levels = {
        severities.INTERNAL_ERROR: logging.ERROR, severities.ERROR: logging.ERROR,
        severities.WARNING: logging.WARNING, severities.INFO: logging.INFO, severities.VERBOSE: logging.DEBUG,
    }  # fmt: skip

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 asks for this form
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.INFO)
            if level >= logging.ERROR:
                self.errors = [*self.errors[-4:], msg]
            LOG.log(level, "%s", msg)

    return Logger()


def started(make: Callable[[Any], Any], logger: Any) -> Any:
    """trt.Builder or trt.Runtime with this logger; DeviceError where the driver, say, is too old for them."""
    try:
        return make(logger)
    except TypeError as error:  # pybind11's word for a null pointer
        raise DeviceError(f"TensorRT does not start on this machine{told(logger) or f': {error}'}") from None


def told(logger: Any) -> str:
    """The end of a message: what TensorRT said last."""
    return f": {'; '.join(' '.join(text.split()) for text in logger.errors)}" if logger.errors else ""
