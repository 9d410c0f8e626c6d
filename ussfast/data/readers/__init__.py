"""Readers of public data sets: each turns the folder that its publisher's archives unpack to into a manifest."""

from pathlib import Path

from ussfast.data.readers import bach10, choirset, dnr, esc50, fsd50k, fuss, musdb, slakh, vctk_demand, wham
from ussfast.data.readers._base import Problem, Reader, Scan, read_table, scan
from ussfast.errors import InputError

__all__ = ["READERS", "Problem", "Reader", "Scan", "read_data_set", "read_table"]

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        musdb.HQ, musdb.MP4, fsd50k.READER, esc50.READER, vctk_demand.READER, wham.READER, fuss.READER, dnr.READER,
        slakh.READER, bach10.READER, choirset.READER,
    )
}  # fmt: skip


def read_data_set(kind: str, folder: Path, output: Path) -> Scan:
    """What a manifest at `output` says of the data set `kind` in `folder`; nothing is written but extracted audio.

    Raises:
        InputError: an unknown kind, or a folder that is not this data set.
    """
    if kind not in READERS:
        raise InputError(f"unknown data set {kind!r}; known are {', '.join(READERS)}, and 'merge' joins manifests")
    return scan(READERS[kind], folder, output)
