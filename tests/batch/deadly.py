"""Separators whose processes end, for tests of what becomes of their files."""

import os
from pathlib import Path

from ussfast import Separator


class Deadly(Separator):
    """Its process ends at once with a file called deadly.wav; with one called once.wav the first time."""

    def separate_file(self, path, directory, **options):
        name, mark = Path(path).name, Path(path).with_suffix(".mark")
        if name == "deadly.wav":
            os._exit(9)
        if name == "once.wav" and not mark.exists():
            mark.touch()
            os._exit(9)
        return super().separate_file(path, directory, **options)
