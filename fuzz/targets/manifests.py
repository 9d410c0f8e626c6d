"""Manifests of training audio whose rows have been changed: read, joined and written as training does; and tables of
events."""

import random
from pathlib import Path

from fuzz.mutate import changed
from fuzz.trees import changed_tree, written
from ussfast.data.manifest import by_prompt, merge, read_rows, write_rows
from ussfast.data.pool import read_manifest
from ussfast.evaluate.references import read_references

SECONDS, MIB = 5.0, 128

ROW = {"path": "a/b.wav", "prompt": "speech", "split": "train", "license_class": "free-use", "sample_rate": 44100}
ROWS = [
    ROW | {"seconds": 3.5, "speaker": "p1", "real": True, "license": "CC0-1.0", "source": "somebody"},
    ROW | {"path": "d.flac", "prompt": "drums", "song": "s", "aligned_with": ["e.flac"]},
    ROW | {"path": "e.flac", "prompt": "bass", "song": "s", "aligned_with": ["d.flac"], "fold": 3, "extra": {"a": [1]}},
    ROW | {"path": "/f.wav", "prompt": "sfx", "split": "dev", "label": 7, "sample_rate": 8000.0},
]


TABLE = "\n".join(
    "\t".join(row)
    for row in (
        ("filename", "onset", "offset", "event_label"), ("a.wav", "0.5", "1.25", "dog"), ("d.wav",),
        ("b/c.flac", "0", "1e1", "bell"), ("a.wav", "2", "3", "rain, light"),
    )
).encode()  # fmt: skip


def prepare(folder: Path) -> None:
    pass


def one(context: None, rng: random.Random, folder: Path) -> None:
    if rng.random() < 0.25:
        (folder / "events.tsv").write_bytes(changed(TABLE, rng))
        found = read_references(folder / "events.tsv")
        assert all(0 <= e.onset < e.offset < 1e7 and e.label for events in found.values() for e in events)
        return
    first, second, joined = folder / "a.json", folder / "below" / "b.json", folder / "all.json"
    second.parent.mkdir()
    for path in (first, second):
        path.write_bytes(written(changed_tree({"items": ROWS}, rng) if rng.random() < 0.8 else {"items": ROWS}, rng))
    rows = read_rows(first)
    assert len(read_manifest(first)) == len(rows)
    write_rows(joined, rows)
    assert read_rows(joined) == rows
    together = merge([first, second], joined)
    write_rows(joined, together)
    assert read_rows(joined) == together and len(together) <= len(rows) + len(read_rows(second))
    assert sum(items for items, _ in by_prompt(together).values()) == len(together)
    for item in read_manifest(joined):
        assert isinstance(item.path, str) and item.native_rate >= 1 and item.seconds >= 0
