"""Tools for prompt banks: what is in one, several joined, prompts renamed, all embedded anew. Nothing here needs torch
but `refresh`, whose separator brings it along."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ussfast.audio import resample
from ussfast.errors import InputError, PromptError
from ussfast.prompts.bank_file import BankInfo, PromptInfo, Saved, find, read_bank, read_saved, save
from ussfast.prompts.names import check_name
from ussfast.prompts.origin import Mark, decoded

__all__ = ["BankInfo", "PromptInfo", "merge", "read_bank", "refresh", "rename"]

Place = str | os.PathLike[str]


def merge(paths: Sequence[Place], output: Place) -> BankInfo:
    """Writes a bank with the prompts of several, which must be those of one model; `output` may be one of them.

    Raises:
        PromptError: banks of different models or detectors, or two prompts of the same name.
        CheckpointError: as `read_bank`. InputError: no banks. OutputError: it could not be written.
    """
    if not paths:
        raise InputError("there is nothing to merge: name at least one prompt bank")
    found: dict[str, tuple[Path, Saved]] = {}
    model: tuple[Path, Mark] | None = None
    detector: tuple[Path, Mark] | None = None
    for path in paths:
        info, prompts = read_saved(path)
        model = _same(info.path, info.model, model, "model")
        for prompt in prompts:
            if prompt.name in found:
                raise PromptError(
                    f"{found[prompt.name][0]} and {info.path} both have a prompt {prompt.name!r}: "
                    "rename one of them first ('ussfast prompts rename')"
                )
            if prompt.origin is not None and prompt.origin.detector is not None:
                detector = _same(info.path, prompt.origin.detector, detector, "detector")
            found[prompt.name] = (info.path, prompt)
    assert model is not None
    save(output, model[1], [prompt for _, prompt in found.values()])
    return read_bank(output)


def _same(path: Path, mark: Mark, first: tuple[Path, Mark] | None, what: str) -> tuple[Path, Mark]:
    if first is not None and first[1].fingerprint != mark.fingerprint:
        raise PromptError(
            f"{first[0]} has prompts of {what} {first[1]}, {path} of {mark}: embed one of them anew "
            "('ussfast prompts refresh')"
        )
    return first or (path, mark)


def rename(path: Place, old: str, new: str) -> BankInfo:
    """Gives a prompt of a bank another name.

    Raises:
        PromptError: the bank does not have `old`, or has `new` already, or that cannot be a prompt's name.
        CheckpointError: as `read_bank`. OutputError: it could not be written.
    """
    check_name(new)
    info, prompts = read_saved(path)
    chosen = find(info, prompts, old)
    if any(prompt.name == new for prompt in prompts) and new != old:
        raise PromptError(f"{info.path}: there is a prompt {new!r} already")
    save(path, info.model, [replace(prompt, name=new) if prompt is chosen else prompt for prompt in prompts])
    return read_bank(path)


def refresh(path: Place, separator: Any, output: Place | None = None) -> BankInfo:
    """Embeds the clips that a bank keeps for the model, and the detector, of a separator, which stays as it is.

    Tuned prompts become enrolled ones: what they learned was about the other model.

    Args:
        output: of the new bank; by default it takes the place of the old one.
    Raises:
        PromptError: prompts without clips, names of class prompts of the model, a model that cannot enroll.
        CheckpointError: as `read_bank`. InputError: clips that cannot be decoded. OutputError: it could not be written.
    """
    info, prompts = read_saved(path)
    if bare := [p.name for p in prompts if p.origin is None or not p.origin.clips]:
        names = ", ".join(map(repr, bare[:3])) + (f" and {len(bare) - 3} more" if len(bare) > 3 else "")
        raise PromptError(f"{info.path}: no clips are kept of {names}: enroll anew, or drop them")
    made = []
    for prompt in prompts:
        assert prompt.origin is not None
        where = f"{info.path}: {prompt.name!r}: clip"
        clips = [decoded(clip, f"{where} {i}") for i, clip in enumerate(prompt.origin.clips, 1)]
        rate = max(own for _, own in clips)
        one_rate = [resample(clip, own, rate) if own != rate else clip for clip, own in clips]
        try:
            fresh = separator.prompt_of(prompt.name, one_rate, rate, average=prompt.origin.average)
        except InputError as error:
            raise type(error)(f"{info.path}: {error}") from None
        origin = replace(prompt.origin, detector=fresh.origin.detector, tuning=None)
        made.append(Saved(prompt.name, fresh.vector.float().cpu().numpy(), origin))
    save(info.path if output is None else output, separator.mark, made)
    return read_bank(info.path if output is None else output)
