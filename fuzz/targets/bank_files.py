"""Prompt banks whose headers, tables and bytes have been changed: read, joined, renamed, loaded into a separator and
embedded anew."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import CAUSAL, RATE, noise, tiny_model

from fuzz.mutate import changed
from fuzz.trees import changed_tree
from ussfast import Prompt, Separator
from ussfast.errors import UssfastError
from ussfast.prompts.bank_file import BankInfo, read_saved
from ussfast.prompts.files import merge, read_bank, refresh, rename

SECONDS, MIB = 10.0, 256
TABLES = ("model", "prompts")  # JSON in the metadata


def prepare(folder: Path) -> tuple[Separator, bytes]:
    separator = Separator.from_model(tiny_model(CAUSAL), dtype="float32")
    separator.enroll("dog", [noise(1, 3000), noise(1, 2000, 1)], RATE)
    separator.enroll("cat", [noise(1, 1000, 2)], RATE)
    separator.prompts.add(Prompt("raw", torch.ones(CAUSAL.dim), "enrolled"))
    separator.save_prompts(folder / "bank")
    return separator, (folder / "bank").read_bytes()


def one(context: tuple[Separator, bytes], rng: random.Random, folder: Path) -> None:
    separator, data = context
    bank, other = folder / "bank", folder / "other"
    bank.write_bytes(_changed(data, rng))
    other.write_bytes(data)
    before = bank.read_bytes()
    try:
        info = read_bank(bank)
    except UssfastError:
        _refused(bank)
        raise
    _, prompts = read_saved(bank)
    assert [p.name for p in prompts] == [p.name for p in info.prompts]
    assert all(p.vector.shape == (info.size,) and np.isfinite(p.vector).all() for p in prompts)
    kept = [len(clip) for p in prompts if p.origin for clip in p.origin.clips]
    assert kept == [size for p in info.prompts for size in p.clips]
    match rng.randrange(4):
        case 0:
            _load(separator, bank, info)
        case 1:
            _changes(bank, before, lambda: rename(bank, rng.choice(prompts).name, rng.choice(("cow", "dog", "\n"))))
        case 2:
            _changes(bank, before, lambda: merge([bank, other] if rng.random() < 0.5 else [bank], bank))
        case 3:
            _changes(bank, before, lambda: refresh(bank, separator))
    assert sorted(path.name for path in folder.iterdir()) == ["bank", "other"], "something was left behind"


def _changed(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    match rng.randrange(6):
        case 0:
            return changed(data, rng, 3)
        case 1:
            header = changed_tree(header, rng)
        case 2 | 3:
            facts, name = header["__metadata__"], rng.choice(TABLES)
            facts[name] = json.dumps(changed_tree(json.loads(facts[name]), rng))
        case 4:
            at = rng.randrange(len(rest))
            rest = rest[:at] + rng.randbytes(rng.choice((1, 4, 100)))[: len(rest) - at] + rest[at:]
            rest = rest[: len(data) - 8 - length]
        case 5:
            facts = header["__metadata__"]
            facts[rng.choice(list(facts))] = rng.choice(("", "2", "1.0", "x" * 300, "[]", "{}", "null"))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def _refused(bank: Path) -> None:
    try:
        read_saved(bank)
    except UssfastError as error:
        assert str(error).isprintable()
        return
    raise AssertionError("read, though its header is refused")


def _load(separator: Separator, bank: Path, info: BankInfo) -> None:
    twin = Separator.from_model(separator.engine.model, dtype="float32")
    known = list(twin.prompts)
    try:
        loaded = twin.load_prompts(bank)
    except UssfastError as error:
        assert str(error).isprintable() and list(twin.prompts) == known, "half loaded"
        raise
    assert [p.name for p in loaded] == [p.name for p in info.prompts]
    got = twin.separate(noise(1, 800), RATE, prompts=loaded[0].name)
    assert np.isfinite(got.stems).all()


def _changes(bank: Path, before: bytes, do: Any) -> None:
    try:
        info = do()
    except UssfastError as error:
        assert str(error).isprintable() and bank.read_bytes() == before, "half written"
        raise
    assert read_bank(bank) == info
