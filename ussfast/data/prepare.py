"""`ussfast train manifest` and `ussfast train pack`: what stands behind the commands, and what they print."""

import os
from collections.abc import Collection
from pathlib import Path

from ussfast.data.manifest import Row, by_prompt, merge, write_rows
from ussfast.data.pack import PackSettings, pack, parse_size
from ussfast.data.readers import read_data_set
from ussfast.errors import InputError


def write_manifest_of(kind: str, paths: list[Path]) -> tuple[str, list[str]]:
    """Writes the manifest of a data set; paths: its folder, then the file to write.

    Returns:
        A table of what is in it, and the files left out with the reason of each.
    """
    if len(paths) != 2:
        raise InputError(f"give the folder of the data set and the manifest to write, got {len(paths)} paths")
    folder, output = paths
    scan = read_data_set(kind, folder, output)
    write_rows(output, scan.rows)
    lines = [_table(scan.rows)]
    if scan.unused:
        lines.append(f"{scan.unused} clips fit no prompt")
    if scan.problems:
        lines.append(f"{len(scan.problems)} files could not be used")
    lines.append(f"{output}: {len(scan.rows)} items")
    return "\n".join(lines), [f"{problem.path}: {problem.reason}" for problem in scan.problems]


def join_manifests(paths: list[Path]) -> tuple[str, list[str]]:
    """Joins manifests; paths: two or more of them, then the file to write. Returns as `write_manifest_of` does."""
    if len(paths) < 3:
        raise InputError(f"give two or more manifests and the one to write, got {len(paths)} paths")
    *manifests, output = paths
    rows = merge(manifests, output)
    write_rows(output, rows)
    return f"{_table(rows)}\n{output}: {len(rows)} items", []


def pack_manifest(
    source: Path,
    output: Path,
    max_size: str,
    rate: int,
    splits: Collection[str],
    license_classes: Collection[str],
    overwrite: bool,
) -> tuple[str, list[str]]:
    """Packs a manifest's audio. Returns a table of what was kept and dropped, and the files left out."""
    settings = PackSettings(parse_size(max_size), rate, tuple(splits), tuple(license_classes))
    report = pack(source, output, settings, overwrite)
    kept, dropped = by_prompt(report.kept), by_prompt(report.dropped)
    lines = [f"{'prompt':8} {'kept':>6} {'minutes':>8}   {'dropped':>7} {'minutes':>8}"]
    for prompt in by_prompt([*report.kept, *report.dropped]):
        (items, minutes), (lost, lost_minutes) = kept.get(prompt, (0, 0.0)), dropped.get(prompt, (0, 0.0))
        lines.append(f"{prompt:8} {items:6} {minutes:8.1f}   {lost:7} {lost_minutes:8.1f}")
    size = f"{report.size_bytes / 2**20:.2f} of {settings.max_bytes / 2**20:.2f} MiB"
    lines.append(f"{output}: {len(report.kept)} items, {size}, Vorbis quality loss {report.loss:.1f}")
    return "\n".join(lines), [f"{os.fspath(path)}: {reason}" for path, reason in report.problems]


def _table(rows: list[Row]) -> str:
    lines = [f"{'prompt':8} {'split':5} {'items':>6} {'minutes':>8}"]
    splits = list(dict.fromkeys(["train", "dev", "test", *(str(row["split"]) for row in rows)]))
    for split in splits:
        for prompt, (items, minutes) in by_prompt(row for row in rows if row["split"] == split).items():
            lines.append(f"{prompt:8} {split:5} {items:6} {minutes:8.1f}")
    return "\n".join(lines)
