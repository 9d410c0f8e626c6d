"""What tests of a server share."""

import page_world as world
import pytest
import stream_servers
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


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model for live streams."""
    return stream_servers.model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with a fake microphone."""
    sound = world.loop_for_the_microphone(tmp_path_factory.mktemp("sound") / "loop.wav")
    with world.browser(f"--use-file-for-fake-audio-capture={sound}") as opened:
        yield opened
