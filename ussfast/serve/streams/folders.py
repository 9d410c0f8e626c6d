"""What is on disk of a stream: its settings, changes of its prompts, and snapshots, in a folder of its own."""

import base64
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError
from ussfast.plain import from_dict, read_json
from ussfast.prompts.bank import Plan, plan_of
from ussfast.serve.streams.live import Recorded, Taken
from ussfast.serve.streams.protocol import NAME, Asked
from ussfast.streaming import states

ABOUT, SUFFIX = "stream.json", ".safetensors"
KEPT = 16  # snapshots, where a client does not say what it has


@dataclass(frozen=True, order=True)
class Snapshot:
    """Positions in frames; number: of the last change that is in it. The first one needs no file."""

    input: int = 0
    output: int = 0
    number: int = 0

    @property
    def name(self) -> str:
        return f"{self.input}-{self.output}-{self.number}{SUFFIX}"

    @classmethod
    def of(cls, name: str) -> "Snapshot | None":
        parts = name.removesuffix(SUFFIX).split("-")
        fits = name.endswith(SUFFIX) and len(parts) == 3 and all(p.isdecimal() and len(p) < 19 for p in parts)
        return cls(*map(int, parts)) if fits else None


@dataclass
class Folder:
    """One stream; for one thread at a time.

    created: by the clock of the wall. floor: the oldest snapshot that can be gone on from, before it nothing is needed;
    plan: of it. changes: after it. snapshots: with files, the oldest first.
    """

    path: Path
    asked: Asked
    created: float
    plan: Plan
    floor: Snapshot = Snapshot()
    changes: list[Recorded] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    acked: int = 0

    @classmethod
    def make(cls, path: Path, asked: Asked, plan: Plan) -> "Folder":
        """A new one; OutputError if it cannot be written."""
        path.mkdir(parents=True)
        made = cls(path, asked, time.time(), plan)
        made.write()
        return made

    @classmethod
    def read(cls, path: Path) -> "Folder":
        """InputError if it is none."""
        data = read_json(path / ABOUT, None)
        try:
            asked = dict(data["asked"])
            if asked["prompts"] is not None:
                asked["prompts"] = tuple(asked["prompts"])
            changes = [Recorded(int(c["number"]), int(c["at"]), _plan(c["plan"])) for c in data["changes"]]
            floor = from_dict(Snapshot, data["floor"])
            found = cls(path, Asked(**asked), float(data["created"]), _plan(data["plan"]), floor, changes)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path / ABOUT}: does not describe a stream: {error!r}") from None
        there = (Snapshot.of(name) for name in os.listdir(path))
        found.snapshots = sorted(one for one in there if one is not None and one >= floor)
        return found

    def write(self) -> None:
        changes = [{"number": c.number, "at": c.at, "plan": _plain(c.plan)} for c in self.changes]
        data = {
            "version": 1, "asked": asdict(self.asked), "created": self.created, "floor": asdict(self.floor),
            "plan": _plain(self.plan), "changes": changes,
        }  # fmt: skip
        with atomic_write(self.path / ABOUT) as temporary:
            temporary.write_text(json.dumps(data))

    def add(self, taken: Taken) -> None:
        """A snapshot."""
        one = Snapshot(taken.input, taken.output, taken.number)
        states.save(self.path / one.name, taken.state)
        if one not in self.snapshots:
            self.snapshots.append(one)
        self._tidy()

    def ack(self, received: int) -> None:
        """The client has so many frames of the output: nothing before is asked for again."""
        self.acked = max(self.acked, received)
        self._tidy()

    def _tidy(self) -> None:
        """Removes what is before the newest snapshot that has been heard, and the oldest of too many."""
        heard = [one for one in self.snapshots if one.output <= self.acked]
        floor = max([self.floor, *heard, *self.snapshots[:-KEPT]])
        if floor == self.floor:
            return
        passed = [change for change in self.changes if change.number <= floor.number]
        if passed:
            self.plan, self.changes = passed[-1].plan, self.changes[len(passed) :]
        first, self.floor = self.floor == Snapshot(), floor
        gone, self.snapshots = self.snapshots, [one for one in self.snapshots if one >= floor]
        if first or passed:
            self.write()  # first: from then on it cannot be begun with again
        for one in gone:
            if one < floor:
                with suppress(OSError):
                    os.unlink(self.path / one.name)

    def before(self, received: int) -> Snapshot | None:
        """The newest snapshot whose output a client has that has so many frames; None if there is none any more."""
        begun = [Snapshot()] if self.floor == Snapshot() else []
        return max((one for one in (*begun, *self.snapshots) if one.output <= received), default=None)

    def plan_at(self, one: Snapshot) -> tuple[Plan, tuple[Recorded, ...]]:
        """What a snapshot is separated by, and changes after it."""
        before = [change.plan for change in self.changes if change.number <= one.number]
        return [self.plan, *before][-1], tuple(change for change in self.changes if change.number > one.number)

    def touch(self) -> None:
        """From now on it is kept for as long as a stream can be gone on with."""
        with suppress(OSError):
            os.utime(self.path / ABOUT)


def folders(root: Path) -> list[Path]:
    """Of all streams."""
    with suppress(OSError):
        return [root / name for name in os.listdir(root) if NAME.fullmatch(name)]
    return []


def age(path: Path) -> float:
    """Seconds since something was written there."""
    times = [0.0]
    with suppress(OSError):
        times += [entry.stat().st_mtime for entry in os.scandir(path)]
    return time.time() - max(times)


def remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _plain(plan: Plan) -> Any:
    vectors = states.vectors_of(plan)
    data = base64.b64encode(vectors.numpy().astype("<f4").tobytes()).decode()
    return {"names": [name for name, _ in plan.keys], "size": vectors.shape[1], "vectors": data}


def _plan(data: Any) -> Plan:
    numbers = torch.frombuffer(bytearray(base64.b64decode(data["vectors"])), dtype=torch.float32)
    return plan_of(tuple(data["names"]), numbers.view(len(data["names"]), int(data["size"])))
