"""What is wrong with a command, said before torch is imported. Nothing here needs it.

The engine checks everything again: what these checks let pass is complained about a little later.
"""

import difflib
import importlib.util
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ussfast.checkpoints.names import (
    CONFIG,
    EXPECTED,
    PRESET_FAMILIES,
    QUERY,
    Glance,
    another_detector,
    glance,
    is_preset,
    resolve,
    usual_detector,
)
from ussfast.cli.telling import note
from ussfast.errors import CheckpointError, DeviceError, InputError, OutputError, PromptError
from ussfast.long_audio.policy import default_policy
from ussfast.prompts.names import check_name
from ussfast.prompts.tasks import task as find_task
from ussfast.train.recipe_file import recipe_file

# Those of the engine and of the evaluation, which need torch; a test compares.
DTYPES = ("float32", "fp32", "bfloat16", "bf16", "int8")
BACKENDS = ("native", "reference", "onnx", "trt", "aoti")
BASELINES = ("mixture",)
SPLITS = ("all", "dev", "test")
REMIX_METHODS = ("self-remixing", "remixit")


def asked(prompts: Sequence[str] | None, task: str | None) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The prompts of -p (repeated, or with commas) or of --task, and the stems that a task keeps."""
    names = tuple(name.strip() for given in prompts or () for name in given.split(","))
    if task is None:
        return names, None
    if names:
        raise InputError(f"--task {task} names the prompts itself: leave out -p, or --task")
    found = find_task(task)
    return found.prompts, found.keep


def file_argument(text: str, for_standard_input: str | None = None) -> Path:
    """The path meant by an argument; InputError for an address, and for "-" where it needs another command."""
    if "://" in text:
        raise InputError(f"{text}: is an address, not a file: download it first")
    if text == "-" and for_standard_input:
        raise InputError(f"-: only files are separated here; for standard input: {for_standard_input}")
    return Path(text)


def output_folder(folder: Path) -> None:
    """Errors for a folder that cannot be made: named like an audio file, or where a file is in the way."""
    from ussfast.audio.reading import AUDIO_SUFFIXES  # numpy and soundfile take a tenth of a second

    if folder.suffix.lower() in AUDIO_SUFFIXES and not os.path.isdir(folder):
        raise InputError(f"{folder}: -o names a folder, which gets a file per stem: leave {folder.suffix} out")
    blocked(folder)


def picture(path: Path, inputs: Sequence[Path]) -> None:
    """Errors for a picture that cannot be drawn."""
    if len(inputs) > 1:
        raise InputError(f"--plot {path}: is a picture of one input, and here are {len(inputs)}")
    from ussfast.audio import check_picture
    from ussfast.audio.naming import check_inputs_stay, identities

    check_picture(path)
    check_inputs_stay([path], identities(inputs))
    _possible(path, "written")
    blocked(path.parent)


def text_file(path: Path, inputs: Sequence[Path]) -> None:
    """Errors for a file that cannot be written, or that would take the place of an input."""
    from ussfast.audio.naming import check_inputs_stay, identities

    check_inputs_stay([path], identities(inputs))
    _possible(path, "written")
    if os.path.isdir(path):
        raise OutputError(f"{path}: is a folder, not a file that could be written")
    if not os.path.isdir(path.parent):
        raise OutputError(f"{path}: cannot be written: {path.parent} is no folder")


def _possible(path: Path, use: str) -> None:
    """OutputError where no file can have this name: it is too long, or has a NUL in it."""
    try:
        if "\0" in str(path):
            raise ValueError("embedded null byte")
        there = next(place for place in (path, *path.absolute().parents) if os.path.isdir(place))
        # Of a name that is not there yet, the system says in another folder whether it can be.
        for part in (str(path), *path.parts):
            with suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(there / part)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be {use}: {getattr(error, 'strerror', None) or error}") from error


def blocked(folder: Path) -> None:
    """OutputError where a file is in the way of this folder, or none can have its name."""
    _possible(folder, "used for output")
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not os.path.isdir(there):
        raise OutputError(f"{folder}: cannot be used for output: {there} is not a folder")


def engine(device: str, dtype: str, backend: str, causal: bool = False) -> None:
    """DeviceError for names that mean nothing anywhere; whether this machine has the device, only torch knows."""
    if dtype not in ("auto", *DTYPES):
        raise DeviceError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {dtype!r}")
    if backend not in ("auto", *BACKENDS):
        raise DeviceError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {backend!r}")
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (":" in device and (kind == "auto" or not number.isdecimal())):
        raise DeviceError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N")
    if dtype == "int8" and causal:
        raise DeviceError("dtype int8 is not for the causal model: use auto, float32 or bf16")


def model(name: str, device: str = "auto", dtype: str = "auto", backend: str = "auto") -> Glance | None:
    """What its config.json says, if it can be read so; raises what finding it raises, and as `engine` does."""
    engine(device, dtype, backend)
    found = glance(resolve(name), name)
    if found is not None:
        engine(device, dtype, backend, found.causal)
    return found


def detector(name: str | None, device: str = "auto") -> str:
    """The name of the detector that is meant, the embedded one's if None is given; raises what finding it raises, and
    CheckpointError for a model that separates."""
    engine(device, "auto", "auto")
    name = usual_detector() if name is None else name
    if glance(resolve(name), name) is not None:
        raise CheckpointError(f"{name}: a model that separates, not a detector: {another_detector()}")
    return name


def model_or_preset(name: str) -> None:
    """Raises what finding it raises, where the name is not that of a preset, and says which is meant perhaps."""
    if is_preset(name):
        return
    try:
        resolve(name)
    except CheckpointError as error:
        if not name.startswith(PRESET_FAMILIES) or os.path.exists(os.path.expanduser(name)):
            raise
        from ussfast.models.presets import PRESETS  # imports torch, so only now

        if not (near := difflib.get_close_matches(name, PRESETS, n=3)):
            raise
        raise CheckpointError(f"{error}; or a preset, did you mean {' or '.join(near)}?") from None


def makes_prompts(of: Glance | None, detector: str | None) -> None:
    """PromptError for a model that makes no prompts of clips, by itself or with a detector; or that needs none."""
    if of is None:
        return
    if of.causal and detector is not None:
        raise PromptError(f"model {of.name!r} makes prompts of clips itself: leave out --detector")
    if of.labels:
        raise PromptError(f"model {of.name!r} takes no prompts: it always returns its own sources")
    if of.prompts and not of.causal and detector is None:
        raise PromptError(f"model {of.name!r} makes no prompts of clips; it knows: {', '.join(of.prompts)}")
    if not of.prompts and detector is None and not os.path.isfile(of.directory / QUERY / CONFIG):
        raise PromptError(
            f"model {of.name!r} needs a detector to make prompts of clips: name the one that it was trained with by "
            "--detector DIR"
        )


def new_name(name: str) -> None:
    """PromptError for a name that a prompt cannot have, or that -p cannot ask for."""
    check_name(name)
    if "," in name or name != name.strip():
        raise PromptError(f"a prompt called {name!r} could not be named with -p, where commas stand between names")


def new_bank(path: Path, inputs: Sequence[Path]) -> None:
    """Errors for a bank that cannot be written, or would take the place of a file that is not one of its inputs."""
    text_file(path, [])
    if os.path.exists(path) and not any(os.path.exists(given) and path.samefile(given) for given in inputs):
        raise InputError(f"{path}: is there already, and would be replaced: choose another name")


def windows(
    of: Glance | None,
    segment: float | None,
    overlap: float | None,
    stitch: str | None,
    look_ahead: float | None,
    batch: int | None,
    quiet: bool,
) -> None:
    """InputError for windows that cannot be; if not quiet, one line on standard error for options that do nothing."""
    if of is None:
        return
    default_policy(of.segment_seconds, segment, overlap, "published" if stitch == "published" else "fade", look_ahead)
    given = {"--overlap": overlap, "--stitch": stitch, "--look-ahead": look_ahead, "--batch": batch}
    idle = [name for name, value in given.items() if value is not None]
    if of.causal and idle and not quiet:
        does = "do" if len(idle) > 1 else "does"
        note(f"{', '.join(idle)} {does} nothing here: model {of.name!r} is causal, it has no windows to join")


def installed(*packages: str) -> None:
    """InputError where one of the packages that `ussfast batch` needs is missing."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise InputError(f"this needs {' and '.join(missing)}: pip install 'ussfast[ray]'")


def existing(path: Path, what: str) -> None:
    """InputError where there is no such file."""
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such {what}")


def stems(path: Path) -> None:
    """InputError where there is neither a manifest nor a folder."""
    if not os.path.exists(path):
        raise InputError(f"{path}: no such folder of stems, and no such manifest")


def recipe(source: str) -> None:
    """InputError where there is no training recipe of that name."""
    recipe_file(source)


def model_directory(path: Path) -> None:
    """CheckpointError where there is none."""
    if not os.path.isdir(path):
        raise CheckpointError(f"{path}: no such directory; a model is {EXPECTED}")


def run_folder(path: Path) -> None:
    """InputError where there is no training run."""
    if not os.path.isdir(path):
        raise InputError(f"{path}: no such run folder")


def conversion(source: Path, destination: Path) -> None:
    """Errors for a checkpoint that is missing, before any about the place for the model."""
    if not os.path.exists(source):
        raise CheckpointError(f"{source}: no such file or directory")
    blocked(destination)


def evaluation(baseline: str | None, split: str) -> None:
    """InputError for names that `evaluate` does not know."""
    for what, name, known in (("baseline", baseline, BASELINES), ("split", split, SPLITS)):
        if name is not None and name not in known:
            raise InputError(f"unknown {what} {name!r}; there {'is' if len(known) == 1 else 'are'}: {', '.join(known)}")


def remixing(method: str | None, teacher: Path | None, dev: Path | None) -> None:
    """Errors for what `train remix` is given besides a run."""
    if method is not None and method not in REMIX_METHODS:
        raise InputError(f"--method must be one of {', '.join(REMIX_METHODS)}, got {method!r}")
    if teacher is not None:
        model_directory(teacher)
    if dev is not None and not os.path.isdir(dev):
        existing(dev, "manifest or folder")
