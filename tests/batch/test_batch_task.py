"""One file of a collection: what is complete is left alone, by its content, here and elsewhere; errors are rows."""

import hashlib
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
from tiny import CAUSAL, RATE, files_in, noise, tiny_directory

from ussfast import Separator
from ussfast.audio import OutputFormat
from ussfast.batch.listing import Item
from ussfast.batch.task import Task, separate_item


@pytest.fixture(scope="module")
def separator(tmp_path_factory):
    return Separator(tiny_directory(tmp_path_factory.mktemp("models"), CAUSAL), device="cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    fsspec.filesystem("memory").store.clear()
    return tmp_path


def record(path, seed=0, samples=3000):
    soundfile.write(path, noise(1, samples, seed=seed).T, RATE, subtype="FLOAT")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def upload(local, path):
    fsspec.filesystem("memory").put_file(local, path)


def task(output="out", **changes):
    return Task(**{"output": output, "prompts": ("speech", "sfx"), "template": "{name}/{label}.wav", "residual": False,
                   "stems": None, "format": OutputFormat(), **changes})  # fmt: skip


def item(source, folder="", name="a"):
    return Item(str(source), folder, name)


def test_a_row_says_what_became_of_a_file(separator, folder):
    content = record("a.wav")
    row = separate_item(separator, task(residual=True), item(folder / "a.wav", "some/where"))
    assert row.as_dict() == {
        "input": str(folder / "a.wav"), "seconds": 3000 / RATE, "status": "done", "error": None, "fingerprint": content,
        "outputs": {name: str(folder / f"out/some/where/a/{name}.wav") for name in ("speech", "sfx", "residual")},
        "warnings": [],
    }  # fmt: skip
    again = separate_item(separator, task(residual=True), item(folder / "a.wav", "some/where"))
    assert again.as_dict() == row.as_dict() | {"status": "skipped"}
    redone = separate_item(separator, task(residual=True, redo=True), item(folder / "a.wav", "some/where"))
    assert redone.as_dict() == row.as_dict()


def test_the_same_content_is_complete_whatever_its_time(separator, folder):
    content = record("a.wav")
    first = separate_item(separator, task(), item(folder / "a.wav"))
    before = os.stat("out/a/speech.wav").st_mtime_ns
    os.utime("a.wav", (1e9, 1e9))
    assert separate_item(separator, task(), item(folder / "a.wav")).status == "skipped"
    # The record has the new time: all content need not be read again.
    size = os.stat("a.wav").st_size
    assert f'"mtime_ns": {10**18}' in next(Path("out/a").glob(".ussfast.*.json")).read_text()
    assert first.fingerprint == content and os.stat("out/a/speech.wav").st_mtime_ns == before
    # Of the same size and in the same place, but changed between what is looked at first, and of another time.
    data = bytearray(Path("a.wav").read_bytes())
    assert len(data) == size
    data[len(data) // 2 + 100] ^= 1
    Path("a.wav").write_bytes(data)
    assert separate_item(separator, task(), item(folder / "a.wav")).status == "done"


def test_content_far_from_what_is_looked_at_first_counts(separator, folder):
    """Files of which a beginning, a middle and an end are the same, and the size."""
    record("a.wav", samples=200_000)
    assert separate_item(separator, task(), item(folder / "a.wav")).status == "done"
    data = bytearray(Path("a.wav").read_bytes())
    data[200_001] ^= 1  # the mantissa of a sample: the pieces are 64 KiB at 0, 400 kB and the end
    Path("a.wav").write_bytes(data)
    os.utime("a.wav", (1e9, 1e9))
    assert separate_item(separator, task(), item(folder / "a.wav")).status == "done"


def test_errors_are_rows(separator, folder):
    Path("bad.wav").write_bytes(b"no audio")
    row = separate_item(separator, task(), item(folder / "bad.wav"))
    assert row.status == "failed" and "could not read it" in row.error and row.exit_code == 2 and row.outputs == {}
    assert separate_item(separator, task(), item(folder / "gone.wav")).error.endswith("gone.wav: no such file")
    assert separate_item(separator, task(), Item("x", "", "", "what was wrong", 2)).error == "what was wrong"
    for source, output in (("memory://gone.wav", "out"), (str(folder / "gone.wav"), "memory://o")):
        row = separate_item(separator, task(output), item(source))
        assert row.error == f"{source}: no such file" and row.exit_code == 2
    upload("bad.wav", "/bad.wav")
    row = separate_item(separator, task(), item("memory://bad.wav"))
    assert row.error.startswith("memory://bad.wav: libsndfile could not read it")
    assert os.listdir("tmp") == [] and not Path("out").exists()

    def fails(*_):
        raise ZeroDivisionError("oh")

    record("a.wav")
    row = separate_item(separator, task(), item(folder / "a.wav"), fails)
    assert row.error == f"{folder}/a.wav: failed unexpectedly: ZeroDivisionError: oh" and row.exit_code == 1


WAYS = {"to elsewhere": ("a.wav", "memory://out"), "from elsewhere": ("memory://in/a.wav", "out"),
        "elsewhere": ("memory://in/a.wav", "memory://out")}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_files_elsewhere_are_as_those_here(separator, folder, way):
    content = record("a.wav")
    upload("a.wav", "/in/a.wav")
    source, output = WAYS[way]
    source = source if "://" in source else str(folder / source)
    asked = task(output)

    def both():
        return separate_item(separator, asked, item(source, "deep"))

    first = both()
    assert (first.status, first.error, first.fingerprint, first.seconds) == ("done", None, content, 3000 / RATE)
    here = separate_item(separator, task("here"), item(folder / "a.wav"))
    for label in ("speech", "sfx"):
        with fsspec.open(first.outputs[label], "rb") as file:
            stem = soundfile.read(file, dtype="float32")[0]
        np.testing.assert_array_equal(stem, soundfile.read(here.outputs[label], dtype="float32")[0])
    fs, where = fsspec.core.url_to_fs(output)
    names = sorted(os.path.basename(path) for path in fs.find(where))
    assert names[1:] == ["sfx.wav", "speech.wav"] and names[0].startswith(".ussfast.") and len(names) == 3
    again = both()
    assert again.as_dict() == first.as_dict() | {"status": "skipped"} and os.listdir("tmp") == []
    # Another time alone is nothing; another prompt, content, or a stem that is gone is.
    upload("a.wav", "/in/a.wav")
    os.utime("a.wav", (1e9, 1e9))
    assert both().status == "skipped"
    asked = task(output, prompts=("speech", "drums"), template="{name}/{index}.wav")
    assert [both().status, both().status] == ["done", "skipped"]
    asked = task(output)
    fs.rm_file(f"{where}/deep/a/sfx.wav")
    assert [both().status, both().status] == ["done", "skipped"]
    record("a.wav", seed=1)
    upload("a.wav", "/in/a.wav")
    assert [both().status, both().status] == ["done", "skipped"]


def test_an_output_elsewhere_that_cannot_be_written(separator, folder, monkeypatch):
    record("a.wav")
    memory = type(fsspec.filesystem("memory"))
    put = memory.put_file

    def full(self, local, path, **rest):
        if path.endswith("sfx.wav"):
            raise OSError(28, "No space left on device")
        put(self, local, path, **rest)

    monkeypatch.setattr(memory, "put_file", full)
    row = separate_item(separator, task("memory://out"), item(folder / "a.wav"))
    assert row.error == "memory://out/a/sfx.wav: could not be written: No space left on device" and row.exit_code == 1
    monkeypatch.undo()
    assert not [path for path in fsspec.filesystem("memory").find("/out") if ".ussfast" in path]  # no record
    monkeypatch.chdir(folder)
    assert separate_item(separator, task("memory://out"), item(folder / "a.wav")).status == "done"


def test_a_stopped_upload_here_leaves_nothing(separator, folder, monkeypatch):
    record("a.wav")
    upload("a.wav", "/in/a.wav")

    def stops(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ussfast.batch.places.os.replace", stops)
    row = separate_item(separator, task("out"), item("memory://in/a.wav"))
    assert "could not be written: Input/output error" in row.error and files_in(folder / "out") == []
