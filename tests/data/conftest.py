"""Public data sets in miniature, read."""

import pytest
from miniatures import MAKERS

from ussfast.data.manifest import write_rows
from ussfast.data.readers import read_data_set


@pytest.fixture
def scanned(tmp_path):
    """Makes a data set, reads it, writes its manifest; returns the scan and the rows by path."""

    def make(kind):
        root = tmp_path / "sets" / kind
        root.mkdir(parents=True)
        MAKERS[kind](root)
        scan = read_data_set(kind, root, tmp_path / "manifest.json")
        write_rows(tmp_path / "manifest.json", scan.rows)
        return scan, {row["path"].removeprefix(f"sets/{kind}/"): row for row in scan.rows}

    return make
