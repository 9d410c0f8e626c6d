"""One server for all tests."""

import pytest
from live_server import Live
from tiny import CAUSAL, tiny_directory


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A directory of a tiny causal model, which makes prompts of clips."""
    return tiny_directory(tmp_path_factory.mktemp("models"), CAUSAL)


@pytest.fixture(scope="session")
def live(model, tmp_path_factory):
    server = Live(tmp_path_factory.mktemp("server"), model, rate_per_minute=1_000_000, nice=0)
    yield server
    server.stop()
