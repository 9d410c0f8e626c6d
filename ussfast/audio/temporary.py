"""Names of temporary files, which say who writes them: what a killed process left is removed by the next one there."""

import functools
import hashlib
import os
import re
import shutil
import socket
import threading
import uuid
from contextlib import suppress
from pathlib import Path

PREFIX = ".ussfast-"
_NAME = re.compile(r"\.ussfast-([0-9a-f]{8})-([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{32}(\..*)?", re.DOTALL)
_MOST_SUFFIX = 16  # bytes; a longer one tells nobody what is in the file

_swept: set[str] = set()
_sweeping = threading.Lock()


def temporary_name(path: Path) -> Path:
    """A new hidden name beside `path`, with its suffix, short enough for any file system.

    It holds this machine, its boot, this process and when it began: a process of the same number is not the same.
    """
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= _MOST_SUFFIX else ""
    pid = os.getpid()
    return path.parent / f"{PREFIX}{_machine()}-{_boot()}-{pid}-{_began(pid)}-{uuid.uuid4().hex}{suffix}"


def sweep(folder: Path) -> None:
    """Removes temporaries of dead processes of this machine; those of others stay. Once for each folder."""
    with _sweeping:
        if (key := os.path.abspath(folder)) in _swept:
            return
        _swept.add(key)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (found := _NAME.fullmatch(entry.name)) and _is_dead(Path(entry.path), *found.groups()[:4]):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        os.unlink(entry.path)


def _is_dead(path: Path, machine: str, boot: str, pid: str, began: str) -> bool:
    if machine != _machine():  # on a share: it may be alive there
        return False
    if boot == _boot():
        return not _is_alive(int(pid), began)
    # Of an earlier boot, or of a machine that was cloned from this one: its files are younger.
    try:
        return path.lstat().st_mtime < _boot_time()
    except OSError:
        return False


def _is_alive(pid: int, began: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process, or no number that one can have: it stays
        pass
    return _began(pid) in (began, "0")


@functools.lru_cache
def _machine() -> str:
    """Of this machine as this process sees it: in a container, process numbers are its own."""
    facts = [socket.gethostname(), _text("/etc/machine-id")]
    with suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()[:8]


@functools.lru_cache
def _boot() -> str:
    return hashlib.sha256(_text("/proc/sys/kernel/random/boot_id").encode()).hexdigest()[:8]


def _boot_time() -> float:
    """Seconds since 1970; 0 where it is not known."""
    found = re.search(r"^btime (\d+)$", _text("/proc/stat"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def _began(pid: int) -> str:
    """When a process began, in ticks since boot; "0" where it is not known, "" where it has ended (a zombie)."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return "0"
    return "" if fields[0] in "ZX" else fields[19]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
