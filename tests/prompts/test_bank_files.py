"""Prompt banks on disk: what is in them without torch, joined, renamed, and all that can be wrong with them."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from tiny import RATE, files_in, noise

from ussfast import CheckpointError, InputError, OutputError, PromptError, __version__
from ussfast.audio.ogg import encode
from ussfast.prompts import bank_file
from ussfast.prompts.bank_file import Saved, read_saved, save
from ussfast.prompts.files import merge, read_bank, rename
from ussfast.prompts.origin import Mark, Origin

MODEL, DETECTOR = Mark("asp", "a" * 64), Mark("tags", "d" * 64)
CLIP = encode(noise(1, 4000)[0], RATE, 0.5)


def prompt(name, clips=1, detector=DETECTOR):
    vector = np.arange(3, dtype=np.float32) + len(name)
    return Saved(name, vector, Origin(clips, 0.5 * clips, "mean", (CLIP,) * clips, detector))


RAW = Saved("raw", np.ones(3, np.float32), None)


@pytest.fixture
def bank(tmp_path):
    save(tmp_path / "bank", MODEL, [prompt("dog", 2), RAW, prompt("a b")])
    return tmp_path / "bank"


def equal(one, other):
    return (one.name, one.origin) == (other.name, other.origin) and np.array_equal(one.vector, other.vector)


def test_what_was_saved_is_read(bank):
    info, found = read_saved(bank)
    expected = [prompt("dog", 2), RAW, prompt("a b")]
    assert len(found) == 3 and all(map(equal, found, expected))
    assert read_bank(bank) == info
    assert (info.path, info.version, info.ussfast, info.model, info.size) == (bank, 1, __version__, MODEL, 3)
    assert info.bytes == bank.stat().st_size
    dog, raw, _ = info.prompts
    assert (dog.name, dog.kind, dog.average, dog.count, dog.seconds) == ("dog", "enrolled", "mean", 2, 1.0)
    assert (dog.clips, dog.detector) == ((len(CLIP), len(CLIP)), DETECTOR)
    assert (raw.average, raw.count, raw.seconds, raw.clips, raw.detector) == (None, 0, 0.0, (), None)


def test_a_bank_is_read_without_torch(bank):
    code = f"""
import sys
from ussfast.prompts.files import merge, read_bank, rename
assert read_bank({str(bank)!r}).prompts[0].name == "dog"
merge([{str(bank)!r}], {str(bank) + "2"!r})
rename({str(bank) + "2"!r}, "dog", "cat")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [p.name for p in read_bank(f"{bank}2").prompts] == ["cat", "raw", "a b"]


def test_other_programs_can_read_it(bank):
    assert safetensors.numpy.load_file(bank)["vectors"].shape == (3, 3)
    with safetensors.safe_open(bank, "np") as file:
        facts = file.metadata()
    assert (facts["format"], facts["version"], json.loads(facts["model"])["name"]) == ("ussfast-prompts", "1", "asp")


def test_the_same_prompts_are_the_same_bytes(bank, tmp_path):
    info, found = read_saved(bank)
    save(tmp_path / "again", info.model, found)
    assert (tmp_path / "again").read_bytes() == bank.read_bytes()


def test_merging(bank, tmp_path):
    save(tmp_path / "more", MODEL, [prompt("cat")])
    info = merge([bank, tmp_path / "more"], tmp_path / "all")
    assert [p.name for p in info.prompts] == ["dog", "raw", "a b", "cat"]
    assert all(map(equal, read_saved(tmp_path / "all")[1], [prompt("dog", 2), RAW, prompt("a b"), prompt("cat")]))
    merge([bank, tmp_path / "more"], bank)
    assert bank.read_bytes() == (tmp_path / "all").read_bytes()


def test_banks_that_cannot_be_merged(bank, tmp_path):
    save(tmp_path / "other", Mark("tuss", "b" * 64), [prompt("cat")])
    save(tmp_path / "same", MODEL, [prompt("dog")])
    save(tmp_path / "hears", MODEL, [prompt("cat", detector=Mark("tags", "e" * 64))])
    cases = [
        ("other", r"prompts of model 'asp' \(aaaaaaaa\), .*other of 'tuss' \(bbbbbbbb\): .*prompts refresh"),
        ("same", "bank and .*same both have a prompt 'dog': rename"),
        ("hears", r"prompts of detector 'tags' \(dddddddd\), .*hears of 'tags' \(eeeeeeee\)"),
    ]
    for name, says in cases:
        with pytest.raises(PromptError, match=says):
            merge([bank, tmp_path / name], tmp_path / "all")
    with pytest.raises(InputError, match="nothing to merge"):
        merge([], tmp_path / "all")
    assert "all" not in files_in(tmp_path)


def test_renaming(bank):
    rename(bank, "dog", "my dog")
    assert [p.name for p in read_bank(bank).prompts] == ["my dog", "raw", "a b"]
    assert read_saved(bank)[1][0].origin == prompt("dog", 2).origin
    before = bank.read_bytes()
    rename(bank, "raw", "raw")
    for old, new, says in (
        ("cat", "x", "bank: no prompt 'cat' in it; there are my dog, raw, a b"),
        ("raw", "my dog", "bank: there is a prompt 'my dog' already"),
        ("raw", "a\nb", "characters that can be printed"),
        ("raw", "residual", "choose another name"),
    ):
        with pytest.raises(PromptError, match=says):
            rename(bank, old, new)
    assert bank.read_bytes() == before


def test_nothing_is_half_written(bank, tmp_path, monkeypatch):
    before = bank.read_bytes()

    def full(path, data):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        rename(bank, "dog", "cat")
    assert files_in(tmp_path) == ["bank"] and bank.read_bytes() == before
    with pytest.raises(OutputError, match="does not exist"):
        save(tmp_path / "no" / "bank", MODEL, [RAW])


def test_more_than_a_bank_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(bank_file, "MOST_BYTES", 4000)
    with pytest.raises(InputError, match="save it without clips"):
        save(tmp_path / "bank", MODEL, [prompt("dog", 3)])
    monkeypatch.setattr(bank_file, "MOST_PROMPTS", 2)
    with pytest.raises(InputError, match="3 prompts are too many"):
        save(tmp_path / "bank", MODEL, [RAW] * 3)
    assert not files_in(tmp_path)


def refused(path, says):
    for read in (read_bank, read_saved):
        with pytest.raises(CheckpointError, match=says) as caught:
            read(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def rewritten(bank, change):
    """With its header, as plain values, changed by `change`."""
    data = bank.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    bank.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def with_prompts(bank, change):
    def both(header):
        table = json.loads(header["__metadata__"]["prompts"])
        change(table)
        header["__metadata__"]["prompts"] = json.dumps(table)

    rewritten(bank, both)


def test_a_future_version_says_so(bank):
    rewritten(bank, lambda h: h["__metadata__"].update(version="2", ussfast="9.1.0", prompts="?"))
    refused(bank, f"version '2', written by ussfast '9.1.0': update this one; ussfast {__version__} reads version 1")
    rewritten(bank, lambda h: h["__metadata__"].update(version="0"))
    refused(bank, "version '0', damaged")


def test_what_is_no_bank(tmp_path):
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", "damaged, or no prompt bank; a prompt bank is")
    refused(tmp_path, "a folder; a prompt bank is")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no regular file; a prompt bank is")
    refused(tmp_path / "none", "no such file; a prompt bank is")
    (tmp_path / "text").write_text("RIFF of some other kind")
    refused(tmp_path / "text", "damaged, or no prompt bank")
    safetensors.numpy.save_file({"vectors": np.ones((1, 3), np.float32)}, tmp_path / "model")
    refused(tmp_path / "model", "no prompt bank; a prompt bank is")
    for path in ("a\0b", "x" * 3000):
        with pytest.raises(CheckpointError):
            read_bank(path)
    with pytest.raises(InputError, match="path is needed, not int"):
        read_bank(7)


@pytest.mark.parametrize("cut", [1, 9, 100, 2000])
def test_truncated(bank, cut):
    bank.write_bytes(bank.read_bytes()[:-cut])
    refused(bank, "truncated or damaged|damaged, or no prompt bank")


def test_more_than_its_header_says(bank):
    bank.write_bytes(bank.read_bytes() + b"x")
    refused(bank, "truncated or damaged")


def test_sizes_that_nothing_is_allocated_for(bank, tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(bank_file.MOST_BYTES + 1)
    refused(tmp_path / "huge", "1024 MiB, 1024 are the most")
    for length in (2**63, bank_file.MOST_HEADER + 1, 0):
        (tmp_path / "header").write_bytes(struct.pack("<Q", length) + bank.read_bytes()[8:])
        refused(tmp_path / "header", "damaged, or no prompt bank")
    rewritten(bank, lambda h: h["vectors"].update(shape=[3, 2**40]))
    refused(bank, "a vector for each prompt")


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.pop("clips"),
        lambda h: h.update(more=h["clips"]),
        lambda h: h["clips"].update(dtype="I8"),
        lambda h: h["clips"].update(shape=[1, *h["clips"]["shape"]]),
        lambda h: h["vectors"].update(dtype="F16"),
        lambda h: h["vectors"].update(shape=[9]),
        lambda h: h["vectors"].update(shape=[2, 3]),
        lambda h: h.update(vectors=7),
        lambda h: h["__metadata__"].pop("model"),
        lambda h: h["__metadata__"].update(model="{}"),
        lambda h: h["__metadata__"].update(model="["),
        lambda h: h["__metadata__"].update(prompts="[]"),
        lambda h: h["__metadata__"].update(prompts="[" * 100_000),
        lambda h: h["__metadata__"].update(ussfast=3),
        lambda h: h["__metadata__"].update(version=None),
    ],
)
def test_headers_that_lie(bank, change):
    rewritten(bank, change)
    refused(bank, str(bank))


def test_tensors_that_overlap(bank):
    def overlap(header):
        header["vectors"]["data_offsets"], header["clips"]["data_offsets"] = [0, 36], [10, 10 + 3 * len(CLIP)]

    rewritten(bank, overlap)
    with pytest.raises(CheckpointError, match="damaged"):
        read_saved(bank)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[0].update(name="raw"),
        lambda t: t[0].update(name="a\nb"),
        lambda t: t[0].update(name="residual"),
        lambda t: t[0].update(name=7),
        lambda t: t[0].update(kind="class"),
        lambda t: t[0].update(average="median"),
        lambda t: t[0].update(average=None),
        lambda t: t[0].update(count=-1),
        lambda t: t[0].update(seconds=1e300),
        lambda t: t[0].update(clips=[-5]),
        lambda t: t[0].update(clips=[2**40]),
        lambda t: t[0].update(clips=[len(CLIP)]),
        lambda t: t[0].update(detector={"name": "x"}),
        lambda t: t[0].update(more=1),
        lambda t: t[0].pop("kind"),
        lambda t: t.pop(),
        lambda t: t.append(7),
    ],
)
def test_prompts_that_cannot_be(bank, change):
    with_prompts(bank, change)
    refused(bank, str(bank))


def test_vectors_that_are_no_numbers(tmp_path):
    save(tmp_path / "bank", MODEL, [Saved("dog", np.full(3, np.nan, np.float32), None)])
    with pytest.raises(CheckpointError, match="vectors with numbers that are not finite"):
        read_saved(tmp_path / "bank")
