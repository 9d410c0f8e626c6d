"""Tiles measured on this machine, kept on disk for later processes.

USSFAST_TUNE=1 measures the candidates of every kernel call that has no entry yet; without it, entries are used and
nothing is measured. One file per kind of GPU and version of Triton, in USSFAST_CACHE or ~/.cache/ussfast.
"""

import contextlib
import json
import os
import re
import threading
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton

from ussfast.audio.atomic import atomic_write
from ussfast.errors import OutputError
from ussfast.ops._triton._call import Call, Tile

_lock = threading.Lock()
_tables: dict[Path, dict[str, Any]] = {}
_chosen: dict[tuple[str, int], Tile] = {}


def tuning() -> bool:
    return os.environ.get("USSFAST_TUNE") == "1"


def path(gpu: str) -> Path:
    """The file of tuned tiles for GPUs of this name."""
    folder = Path(os.environ.get("USSFAST_CACHE") or Path.home() / ".cache" / "ussfast")
    slug = re.sub(r"\W+", "-", gpu).strip("-").lower()
    return folder / f"tiles-{slug}-triton-{triton.__version__}.json"


def table(file: Path) -> dict[str, Any]:
    """Entries of the file; none if it cannot be read, since it is only a cache."""
    if file not in _tables:
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError):
            found = {}
        sound = isinstance(found, dict) and all(isinstance(value, dict) for value in found.values())
        _tables[file] = found if sound else {}
    return _tables[file]


def choose(call: Call, device: torch.device) -> Tile:
    """The tile for this call: the tuned one of the file, or its default; measured first under USSFAST_TUNE=1."""
    if len(call.tiles) == 1:
        return call.tiles[0]
    name = f"{call.name} {call.key()}"
    index = torch.cuda.current_device() if device.index is None else device.index
    known = _chosen.get((name, index))
    if known is not None:
        return known
    file = path(torch.cuda.get_device_name(device))
    with _lock:
        found = entry(table(file), name, call.tiles)
        if found is None and tuning() and not torch.cuda.is_current_stream_capturing():
            found = store(file, name, call, measure(call))
        if found is not None or not tuning():
            _chosen[name, index] = found or call.tiles[0]
    return found or call.tiles[0]


def entry(entries: dict[str, Any], name: str, tiles: tuple[Tile, ...]) -> Tile | None:
    """The tile that the entry names, if it still is a candidate."""
    wanted = entries.get(name, {}).get("tile")
    return next((tile for tile in tiles if tile.options() == wanted), None)


def measure(call: Call) -> dict[Tile, float]:
    """Milliseconds of each candidate that this GPU can run."""
    times = {}
    for tile in call.tiles:
        try:
            times[tile] = triton.testing.do_bench(partial(call.run, tile), warmup=5, rep=30, return_mode="median")
        except triton.runtime.errors.OutOfResources:  # more shared memory or registers than this GPU has
            continue
    return times


def store(file: Path, name: str, call: Call, times: dict[Tile, float]) -> Tile:
    """Writes the fastest tile to the file and returns it; the default if none could be measured."""
    best = min(times, key=times.__getitem__, default=call.tiles[0])
    entries = table(file)
    entries[name] = {
        "tile": best.options(),
        "milliseconds": times.get(best),
        "default_milliseconds": times.get(call.tiles[0]),
    }
    # A cache that cannot be written costs a measurement in the next process, no more.
    with contextlib.suppress(OSError, OutputError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    return best
