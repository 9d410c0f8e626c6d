"""Which files a collection has: folders, patterns, manifests, addresses, and places of their own for their stems."""

import gzip
import json
import os
import shutil
from pathlib import Path

import fsspec
import pytest

from ussfast.audio import OutputFormat
from ussfast.audio.jobs import plan
from ussfast.batch.cluster import own_folder
from ussfast.batch.listing import Listing
from ussfast.batch.places import Place
from ussfast.batch.run import shards
from ussfast.batch.seen import Seen
from ussfast.batch.worker import packed, unpacked
from ussfast.errors import InputError

TEMPLATE = "{name}/{label}.wav"


def touch(*paths):
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"x")


def items(inputs=(), manifests=(), output="out", template=TEMPLATE, told=None):
    listing = Listing(
        inputs, manifests, Place(output), template, OutputFormat(), (told if told is not None else []).append
    )
    return [item for group in listing for item in group]


def places(found):
    """Where stems go, by the input relative to the working directory."""
    return {os.path.relpath(item.source): f"{item.folder}/{item.name}".lstrip("/") for item in found if not item.error}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_laid_out_as_by_separate(folder):
    touch("in/b.wav", "in/a/ü ß.flac", "in/a/deep/x.mp3", "in/.hidden/y.wav", "in/.z.wav", "in/notes.txt")
    touch("in/a/talk.wav", "in/a/talk.flac")
    told = []
    found = items(["in"], told=told)
    jobs, note = plan([Path("in")], Path("out"), TEMPLATE)
    assert places(found) == {
        str(job.path): os.path.relpath(job.directory / job.name, "out").removeprefix("./") for job in jobs
    }
    assert len(found) == 5 and len(told) == 1 and all("talk-flac and talk-wav" in line for line in (note, told[0]))
    assert all(os.path.isabs(item.source) for item in found)


def test_stems_of_an_earlier_run_are_no_inputs(folder):
    touch("in/a.wav", "in/out/a/speech.wav", "in/outer/b.wav")
    assert places(items(["in"], output="in/out")) == {"in/a.wav": "a", "in/outer/b.wav": "outer/b"}
    (wrong,) = items(["in"], output="in")
    assert "besides what is in the output folder" in wrong.error and wrong.exit_code == 2


def test_patterns_keep_the_tree_behind_their_fixed_part(folder):
    touch("in/x/a.wav", "in/x/y/b.wav", "in/x/y/c.flac", "in/[odd].wav", "in/x/sound.raw")
    assert places(items(["in/**/*.wav"])) == {"in/[odd].wav": "[odd]", "in/x/a.wav": "x/a", "in/x/y/b.wav": "x/y/b"}
    assert places(items(["in/x/*"])) == {"in/x/a.wav": "a", "in/x/sound.raw": "sound"}
    assert places(items(["in/[odd].wav"])) == {"in/[odd].wav": "[odd]"}  # a file that is there is no pattern
    assert "nothing matches" in items(["in/*.ogg"])[0].error
    assert "no folder" in items(["gone/*.ogg"])[0].error


def test_a_manifest_says_where_files_are(folder):
    touch("data/x/a.wav", "data/b.wav", "elsewhere/c.wav")
    lines = ["# a comment", "x/a.wav", "", str(folder / "elsewhere/c.wav"), '{"path": "b.wav", "folder": "some/where"}']
    lines += ["../elsewhere/c.wav", '{"path": 3}', '{"path": "b.wav", "folder": ".."}']
    Path("data/list.txt").write_text("\n".join(lines))
    found = items(manifests=["data/list.txt"])
    under = str(folder / "elsewhere/c").lstrip("/")
    good = [(os.path.relpath(i.source), f"{i.folder}/{i.name}".lstrip("/")) for i in found if not i.error]
    assert good == [
        ("data/x/a.wav", "x/a"), ("elsewhere/c.wav", under), ("data/b.wav", "some/where/b"),
        ("elsewhere/c.wav", "elsewhere/c"),
    ]  # fmt: skip
    wrong = [item for item in found if item.error]
    assert [item.source.rpartition(":")[2] for item in wrong] == ["7", "8"]
    assert "a path is needed" in wrong[0].error and "would not stay inside" in wrong[1].error


def test_manifests_may_be_compressed_and_many(folder):
    for number in range(3):
        with gzip.open(f"part-{number}.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps({"path": f"{number}/{n}.wav"}) + "\n" for n in range(4)))
    found = items(manifests=["part-*.jsonl.gz"])
    assert len(found) == 12 and places(found)["2/3.wav"] == "2/3"
    (wrong,) = items(manifests=["gone.txt"])
    assert wrong.error == "gone.txt: no such manifest"


def test_names_from_several_places_are_told_apart(folder):
    touch("x/a.wav", "y/a.wav", "z/a.flac")
    found = items(["x", "y", "z/a.flac", "x/a.wav"])
    assert places(found) == {"x/a.wav": "a", "y/a.wav": "a-2", "z/a.flac": "a-3"}
    wrong = [item.error for item in items(["x", "y"], template="{label}.wav") if item.error]
    assert len(wrong) == 1 and "put {name} into the template" in wrong[0]


def test_files_in_the_output_are_refused_in_a_manifest(folder):
    Path("list.txt").write_text("out/a.wav\n")
    assert "lies in the output folder" in items(manifests=["list.txt"])[0].error


def test_an_address_is_searched(folder):
    fs = fsspec.filesystem("memory")
    for path in ("/lists/in/b.wav", "/lists/in/ä/a.flac", "/lists/in/ä/notes.txt", "/lists/in/.h/x.wav"):
        fs.pipe(path, b"x")
    found = items(["memory://lists/in"])
    assert {item.source.replace("///", "//"): f"{item.folder}/{item.name}" for item in found} == {
        "memory://lists/in/b.wav": "/b", "memory://lists/in/ä/a.flac": "ä/a",
    }  # fmt: skip
    assert [item.name for item in items(["memory://lists/in/**/*.flac"])] == ["a"]
    assert [item.name for item in items(["memory://lists/in/b.wav"])] == ["b"]
    assert "no such file" in items(["memory://lists/gone.wav"])[0].error
    fs.pipe("/lists/list.txt", "in/b.wav\nmemory://lists/in/ä/a.flac\n".encode())
    assert [(item.folder, item.name) for item in items(manifests=["memory://lists/list.txt"])] == [
        ("in", "b"), ("lists/in/ä", "a"),
    ]  # fmt: skip


def test_addresses_say_what_they_need():
    with pytest.raises(InputError, match="is no address"):
        Place("nothing://a/b")
    try:
        import s3fs  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="s3:// needs a package that is not installed here: pip install s3fs"):
            Place("s3://bucket/a.wav")


def test_folders_of_killed_runs_are_removed(folder, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    one, lock = own_folder()
    two, other = own_folder()
    assert os.path.isdir(one) and os.path.isdir(two)  # both are in use
    os.close(lock)  # as the system does for a process that ends
    three, third = own_folder()
    assert not os.path.exists(one) and os.path.isdir(two)
    for path, number in ((two, other), (three, third)):
        shutil.rmtree(path)
        os.close(number)


def test_names_that_are_no_text_travel(folder):
    name = os.fsdecode(b"in/\xff.wav")
    touch(name)
    (item,) = items(["in"])
    assert unpacked(type(item), packed([item])) == [item] and os.path.exists(item.source)


def test_shards_are_small_enough_for_all_workers():
    def groups(count):
        return iter([list(range(n, min(n + 100, count))) for n in range(0, count, 100)])

    for count, workers in ((0, 2), (1, 2), (10, 2), (200, 2), (3000, 4), (70_000, 1)):
        dealt = list(shards(groups(count), workers))
        assert [n for shard in dealt for n in shard] == list(range(count))
        assert len(dealt) >= min(count, 12 * workers) and max(map(len, dealt), default=0) <= 256


def test_what_was_seen_is_known_whatever_there_are():
    seen, count = Seen(), 70_000
    assert all(seen.add(str(n)) for n in range(count))
    assert not any(seen.add(str(n)) for n in range(0, count, 777)) and seen.add("new") and not seen.add("new")
