"""Names of inputs and outputs that are no text, as long as can be, or that no file can have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import load, record
from tiny import files_in


def test_names_that_are_no_text(folder, model):
    """In a process, as the terminal's bytes are what is looked at; an encoding without most letters beside it."""
    names = [b"in/caf\xe9.wav", "in/caf\u00e9 \u97f3.wav".encode()]
    for name in names:
        record(os.fsdecode(name))
    command = [sys.executable, "-m", "ussfast", "separate", "in", "-p", "speech", "-m", model, "-o", "out"]
    for encoding in ("utf-8", "ascii"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run(command, capture_output=True, timeout=120, env=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert sorted(done.stdout.splitlines()) == sorted(b"out" + n[2:-4] + b"/speech.wav" for n in names)
    done = subprocess.run([*command, "--json", "--skip-existing"], capture_output=True, timeout=120)
    assert sorted(os.fsencode(row["input"]) for row in json.loads(done.stdout)) == sorted(names)
    done = subprocess.run([*command[:4], b"gone\xff.wav", *command[5:]], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (2, b"ussfast: gone\\udcff.wav: no such file\n")


@pytest.mark.parametrize("letter", ["n", "\u97f3", "\udcff"])
def test_names_that_are_as_long_as_can_be(separated, folder, letter):
    size = len(os.fsencode(letter))
    for end in ("x.wav", "y.wav"):
        record("in/" + letter * ((255 - len(end)) // size) + end)
    for template in ("{name}/{label}.wav", "{label}-{name}-{name}.flac", "{name}-{name}/{name}{label}"):
        code, out, err, _ = separated("in", "-p", "speech", "-o", "out", "--template", template, "--json")
        rows = json.loads(out)
        assert (code, err) == (0, "") and len({row["stems"]["speech"] for row in rows}) == 2
        for row in rows:
            assert load(row["stems"]["speech"]).shape == (3000,)
            assert all(len(os.fsencode(part)) <= 255 for part in Path(row["stems"]["speech"]).parts)
    assert separated("in", "-p", "speech", "-o", "out", "--skip-existing")[3] == 0
    assert len(files_in(folder / "out")) == 6


LONG = "x" * 300


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ((LONG,), 2, f"{LONG}: could not be opened: File name too long"),
        (("a\0.wav",), 2, "could not be opened: embedded null byte"),
        (("a.wav", "-o", LONG), 1, "cannot be used for output: File name too long"),
        (("a.wav", "-o", f"deep/{LONG}/deeper"), 1, "cannot be used for output: File name too long"),
        (("a.wav", "-o", "x/" * 3000), 1, "cannot be used for output: File name too long"),
        (("a.wav", "--plot", f"{LONG}.png"), 1, "cannot be written: File name too long"),
        (("a.wav", "--template", "{label[a]}"), 2, "may use {label}, {name}, {index} and {suffix} only"),
        (("a.wav", "--template", "{label.x}"), 2, "may use {label}, {name}, {index} and {suffix} only"),
        (("a.wav", "--template", "{label!r:^1000000000}"), 2, "may use {label}, {name}, {index} and {suffix} only"),
        (("a.wav", "--template", "{label:^1000000000}"), 2, "may use {label}, {name}, {index} and {suffix} only"),
        (("a.wav", "--template", "{index:99999}{label}"), 2, "may use {label}, {name}, {index} and {suffix} only"),
        (("a.wav", "--template", "{label:{name}}"), 2, "may use {label}, {name}, {index} and {suffix} only"),
        (("a.wav", "--template", "{"), 2, "may use {label}, {name}, {index} and {suffix} only"),
        (("a.wav", "--template", "{label}\0"), 2, "names of files have no NUL"),
        (("a.wav", "--template", "x/" * 3000 + "{label}"), 1, "File name too long"),
        (("a.wav", "--template", ""), 2, "must stay inside the output directory"),
    ],
    ids=range(16),
)
def test_names_that_cannot_be(separated, folder, options, code, says):
    found, out, err, computed = separated(*options, "-p", "speech")
    assert (found, out, computed) == (code, "", 0) and says in err and err.count("\n") == 1, err
    assert sorted(os.listdir()) == ["a.wav"] or options[-1].endswith("{label}")
