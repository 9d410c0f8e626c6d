"""ESC-50: 2000 labelled clips of 5 s in five folds; the subset ESC-10 has a freer licence."""

from collections.abc import Iterator
from pathlib import Path

from ussfast.data.readers._base import Clip, Problem, Reader, read_table
from ussfast.errors import InputError

DEV_FOLD = 5  # the data set has folds and no validation part


def find(folder: Path, work: Path) -> Iterator[Clip | Problem]:
    table = folder / "meta" / "esc50.csv"
    if not table.is_file() or not (folder / "audio").is_dir():
        return
    for row in read_table(table, ["filename", "fold", "category", "esc10", "src_file"]):
        try:
            fold = int(row["fold"])
        except ValueError:
            raise InputError(f"{table}: fold must be a number from 1 to 5, got {row['fold']!r}") from None
        free = row["esc10"].strip().lower() == "true"
        yield Clip(
            path=folder / "audio" / row["filename"],
            prompt="sfx",
            split="dev" if fold == DEV_FOLD else "train",
            source=f"{'ESC-10' if free else 'ESC-50'}: Freesound {row['src_file']}",
            license="CC BY 3.0 (ESC-10)" if free else "CC BY-NC 3.0 (ESC-50)",
            license_class="attribution" if free else "noncommercial",
            label=row["category"],
            fold=fold,
            group=f"freesound {row['src_file']}",
        )


READER = Reader("esc50", "ESC-50", "audio/*.wav and meta/esc50.csv", find)
