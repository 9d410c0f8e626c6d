"""Temporaries of processes that were killed go, all others stay."""

import os
import subprocess
import sys
import time

import pytest

from ussfast.audio import atomic_write, temporary
from ussfast.audio.temporary import sweep, temporary_name

KILLED = """
import os, sys, signal
from pathlib import Path
from ussfast.audio import AudioWriter
from ussfast.audio.temporary import temporary_name
writer = AudioWriter(sys.argv[1] + "/a.wav", 8000, 1)
temporary_name(Path(sys.argv[1], "model")).mkdir()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _unswept(monkeypatch):
    monkeypatch.setattr(temporary, "_swept", set())


def left_by_a_killed_process(folder):
    subprocess.run([sys.executable, "-c", KILLED, folder], timeout=60)
    return sorted(p.name for p in folder.iterdir())


def as_of(path, **changes):
    """The name with other facts in it, as a file that is there."""
    facts = dict(zip(("machine", "boot", "pid", "began", "unique"), path.name.split("-")[1:], strict=True)) | changes
    other = path.with_name(".ussfast-" + "-".join(map(str, facts.values())))
    other.touch()
    return other


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    left = left_by_a_killed_process(tmp_path)
    assert len(left) == 2 and all(name.startswith(".ussfast-") for name in left)
    with atomic_write(tmp_path / "b.json") as path:
        path.write_text("{}")
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert os.listdir(tmp_path) == ["b.json"]


def test_what_may_be_in_use_stays(tmp_path):
    mine = temporary_name(tmp_path / "a.wav")
    mine.touch()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        began = temporary._began(other.pid)
        stay = [
            mine,
            as_of(mine, pid=other.pid, began=began),
            as_of(mine, machine="0" * 8, pid=2**22 + 5),  # on a share
            as_of(mine, boot="0" * 8),  # written since we have booted: a machine that was cloned
            as_of(mine, pid=1, began=temporary._began(1)),
            as_of(mine, pid=10**30),  # not ours
        ]
        ended = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie: its number is still taken
        for name in (".ussfast-1234.wav", "ussfast.wav", f"x{mine.name}", f"{mine.name[:-6]}", ".ussfast.0123.json"):
            stay.append(tmp_path / name)
            stay[-1].touch()
        go = [
            as_of(mine, pid=other.pid, began=int(began) + 1),  # the number was used again
            as_of(mine, pid=ended.pid, began=began),
            as_of(mine, pid=2**22 + 5),  # there is none of this number
            as_of(mine, boot="1" * 8),
        ]
        os.utime(go[-1], (time.time() - 10**9,) * 2)
        sweep(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted(stay)
    finally:
        other.kill()
        other.wait()
        ended.wait()


def test_only_links_themselves_are_removed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/kept").touch()
    dead = as_of(temporary_name(tmp_path / "a.wav"), pid=2**22 + 5)
    dead.unlink()
    dead.symlink_to(tmp_path / "data")
    sweep(tmp_path)
    assert not dead.is_symlink() and (tmp_path / "data/kept").is_file()


def test_names_are_short_and_hidden(tmp_path):
    for name in ("a.wav", "a." + "x" * 250, "n" * 255, "\udcff" * 200 + ".wav"):
        path = temporary_name(tmp_path / name)
        path.touch()
        assert path.name.startswith(".") and len(os.fsencode(path.name)) < 120
        assert path.suffix == (".wav" if name.endswith(".wav") else "")
