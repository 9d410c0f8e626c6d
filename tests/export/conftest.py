"""Exports take half a minute each: the processes of a run (`pytest -n 2`) leave them to each other."""

import os

import pytest
from exported_models import SHARED


@pytest.fixture(scope="session", autouse=True)
def _exported_once(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            folder = tmp_path_factory.getbasetemp().parent / "exported"
            folder.mkdir(exist_ok=True)
            patch.setenv(SHARED, str(folder))
        yield
