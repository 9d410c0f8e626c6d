"""Prompt banks on disk: vectors and clips as safetensors, what they are as its metadata. Nothing here needs torch."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import safetensors.numpy

import ussfast
from ussfast.audio import atomic_write
from ussfast.errors import CheckpointError, InputError, PromptError
from ussfast.plain import Checked, Range, Word, convert, from_dict, parse_json, shown
from ussfast.prompts.names import check_name
from ussfast.prompts.origin import MOST_CLIP, Average, Mark, Origin, Tuning

FORMAT, VERSION = "ussfast-prompts", 1
MOST_HEADER, MOST_BYTES = 4 << 20, 1 << 30  # of a file
MOST_PROMPTS, MOST_SIZE = 10_000, 1 << 20
WHAT = "a prompt bank is a file that Separator.save_prompts or 'ussfast enroll' wrote"


@dataclass(frozen=True)
class PromptInfo(Checked):
    """What a bank says of a prompt.

    average, count, seconds: how many clips it was made of, how long they are together, and what was taken of their
    vectors; None, 0 and 0 for a vector from elsewhere. clips: sizes of those that are kept, in bytes. detector: that
    made the vectors; None if the model itself did. tuning: how it was tuned, or that this was tried.
    """

    name: str
    kind: Literal["enrolled", "tuned"]
    average: Average | None
    count: Annotated[int, Range(0, 1e6)]
    seconds: Annotated[float, Range(0, 1e10)]
    clips: Annotated[tuple[Annotated[int, Range(1, MOST_CLIP)], ...], Range(0, 1e6)]
    detector: Mark | None
    tuning: Tuning | None = None


@dataclass(frozen=True)
class BankInfo:
    """What a prompt bank says of itself. version: of the format. ussfast: that wrote it. size: numbers of a vector.
    bytes: of the file."""

    path: Path
    version: int
    ussfast: str
    model: Mark
    size: int
    prompts: tuple[PromptInfo, ...]
    bytes: int


@dataclass(frozen=True, eq=False)
class Saved:
    """A prompt as a bank has it; vector: float32 [size]."""

    name: str
    vector: np.ndarray
    origin: Origin | None
    kind: Literal["enrolled", "tuned"] = "enrolled"


def read_bank(path: str | os.PathLike[str]) -> BankInfo:
    """What a prompt bank says of itself; its vectors and clips are not read.

    Raises:
        CheckpointError: no prompt bank, a damaged or truncated one, or one that a later ussfast wrote.
    """
    path = _place(path)
    data, size = _read(path, 8 + MOST_HEADER)
    return _described(path, data, size)


def read_saved(path: str | os.PathLike[str]) -> tuple[BankInfo, list[Saved]]:
    """All that is in a prompt bank; raises like `read_bank`, and for vectors with numbers that are not finite."""
    path = _place(path)
    data, size = _read(path, MOST_BYTES)
    info = _described(path, data, size)
    try:
        tensors = safetensors.numpy.load(data)
    except Exception as error:  # what comes depends on how the file is wrong
        raise CheckpointError(f"{path}: damaged: {error}") from None
    vectors, clips = tensors["vectors"], tensors["clips"].tobytes()
    if not np.isfinite(vectors).all():
        raise CheckpointError(f"{path}: damaged: vectors with numbers that are not finite")
    found, at = [], 0
    for prompt, vector in zip(info.prompts, vectors, strict=True):
        kept = []
        for length in prompt.clips:
            kept.append(clips[at : at + length])
            at += length
        origin = None
        if prompt.average is not None:
            origin = Origin(
                prompt.count, prompt.seconds, prompt.average, tuple(kept), prompt.detector, tuning=prompt.tuning
            )  # fmt: skip
        found.append(Saved(prompt.name, vector, origin, prompt.kind))
    return info, found


def save(path: str | os.PathLike[str], model: Mark, prompts: Sequence[Saved]) -> None:
    """Writes a prompt bank, complete or not at all.

    Raises:
        InputError: more, or larger, than a bank may hold. OutputError: it could not be written.
    """
    path = _place(path)
    table = [dataclasses.asdict(_info(prompt)) for prompt in prompts]
    kept = [clip for prompt in prompts if prompt.origin is not None for clip in prompt.origin.clips]
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "ussfast": ussfast.__version__,
        "model": json.dumps(dataclasses.asdict(model), ensure_ascii=False),
        "prompts": json.dumps(table, ensure_ascii=False),
    }
    vectors = np.stack([prompt.vector for prompt in prompts]).astype("<f4")
    sizes = [vectors.nbytes, sum(map(len, kept))]
    # Not by the library, which writes metadata in another order each time.
    header = {
        "__metadata__": metadata,
        "vectors": {"dtype": "F32", "shape": list(vectors.shape), "data_offsets": [0, sizes[0]]},
        "clips": {"dtype": "U8", "shape": sizes[1:], "data_offsets": [sizes[0], sum(sizes)]},
    }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(prompts) > MOST_PROMPTS or len(text) > MOST_HEADER:
        raise InputError(f"{path}: {len(prompts)} prompts are too many for a bank, make several")
    if (size := 8 + len(text) + sum(sizes)) > MOST_BYTES:
        raise InputError(
            f"{path}: the bank would have {size >> 20} MiB, {MOST_BYTES >> 20} are the most: save it without clips, or "
            "make several"
        )
    data = b"".join((len(text).to_bytes(8, "little"), text, vectors.tobytes(), *kept))
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def find(info: BankInfo, prompts: Sequence[Saved], name: str) -> Saved:
    """The prompt of this name; PromptError that lists those there are."""
    for prompt in prompts:
        if prompt.name == name:
            return prompt
    raise PromptError(f"{info.path}: no prompt {shown(name)} in it; there are {', '.join(p.name for p in prompts)}")


def _info(prompt: Saved) -> PromptInfo:
    origin = prompt.origin or Origin(0, 0.0, "mean")
    return PromptInfo(
        prompt.name,
        prompt.kind,
        None if prompt.origin is None else origin.average,
        origin.count,
        origin.seconds,
        tuple(map(len, origin.clips)),
        origin.detector,
        origin.tuning,
    )


def _place(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise InputError(f"a prompt bank's path is needed, not {type(path).__name__}") from None


def _read(path: Path, most: int) -> tuple[bytes, int]:
    """(the first `most` bytes, size of the file)."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait
            raise CheckpointError(f"{path}: {'a folder' if os.path.isdir(path) else 'no regular file'}; {WHAT}")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_BYTES:
                raise CheckpointError(f"{path}: no prompt bank: {size >> 20} MiB, {MOST_BYTES >> 20} are the most")
            return file.read(most), size
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; {WHAT}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not readable: {getattr(error, 'strerror', None) or error}") from None


def _described(path: Path, data: bytes, size: int) -> BankInfo:
    """What the header says, once it is sure that the file holds what it says."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(MOST_HEADER, size - 8):
        raise CheckpointError(f"{path}: damaged, or no prompt bank; {WHAT}")
    try:
        header = parse_json(data[8 : 8 + length])
        facts = header.pop("__metadata__", None) if isinstance(header, dict) else None
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise InputError(f"no prompt bank; {WHAT}")
        _check_version(facts)
        info = _info_of(path, facts, header.get("vectors"), size)
        _check_tensors(header, info, size - 8 - length)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return info


def _check_version(facts: dict[str, Any]) -> None:
    text = facts.get("version")
    version = int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10 else 0
    if version != VERSION:
        by = f"ussfast {shown(facts.get('ussfast'))}"
        later = f"written by {by}: update this one" if version > VERSION else "damaged"
        raise InputError(
            f"prompt bank of version {shown(text)}, {later}; ussfast {ussfast.__version__} reads version {VERSION}"
        )


def _info_of(path: Path, facts: dict[str, Any], vectors: Any, size: int) -> BankInfo:
    by, model, table = (convert(str, facts.get(key), key) for key in ("ussfast", "model", "prompts"))
    prompts = convert(tuple[PromptInfo, ...], parse_json(table), "prompts")
    names = [prompt.name for prompt in prompts]
    if not 1 <= len(names) <= MOST_PROMPTS or len(set(names)) != len(names):
        raise InputError(f"damaged: {len(names)} prompts of {len(set(names))} names")
    for prompt in prompts:
        try:
            check_name(prompt.name)
        except PromptError as error:
            raise InputError(f"damaged: {error}") from None
        if prompt.average is None and (prompt.count or prompt.clips):
            raise InputError(f"damaged: {prompt.name!r} has clips but no average of them")
    shape = vectors.get("shape") if isinstance(vectors, dict) else None
    dim = shape[1] if isinstance(shape, list) and len(shape) == 2 and shape[0] == len(prompts) else None
    if type(dim) is not int or not 1 <= dim <= MOST_SIZE:
        raise InputError("damaged: it does not have a vector for each prompt")
    mark = from_dict(Mark, parse_json(model), "model")
    return BankInfo(path, VERSION, convert(Annotated[str, Word()], by, "ussfast"), mark, dim, prompts, size)


def _check_tensors(header: dict[str, Any], info: BankInfo, held: int) -> None:
    """InputError unless the header is that of these prompts, and the file has all of it and no more."""
    clips = sum(size for prompt in info.prompts for size in prompt.clips)
    shapes = {"vectors": ("F32", [len(info.prompts), info.size]), "clips": ("U8", [clips])}
    if header.keys() != shapes.keys():
        raise InputError(f"damaged: tensors {shown(sorted(header))} instead of {', '.join(shapes)}")
    for name, expected in shapes.items():
        entry = header[name]
        if not isinstance(entry, dict) or (entry.get("dtype"), entry.get("shape")) != expected:
            raise InputError(f"damaged: {name} are not what its prompts say")
    if (needed := 4 * len(info.prompts) * info.size + clips) != held:
        raise InputError(f"truncated or damaged: {held} bytes of vectors and clips instead of {needed}")
