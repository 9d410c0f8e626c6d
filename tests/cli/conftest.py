"""What tests of the command line share."""

import pytest
from tiny import tiny_directory


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Directory of a tiny TUSS."""
    return tiny_directory(tmp_path_factory.mktemp("models"))
