"""A run of `ussfast evaluate` on small data: its arguments, and the mixtures that it measures on."""

import pytest
from tiny import RATE, tiny_manifest

from ussfast.cli.main import main
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.evaluate.dev import TASKS, dev_mixtures

COUNT = 2  # mixtures per task


@pytest.fixture(scope="session")
def command():
    """Runs the command line; returns its exit code."""

    def run(*arguments):
        with pytest.raises(SystemExit) as exit:
            main([str(a) for a in arguments])
        return exit.value.code or 0

    return run


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return tiny_manifest(tmp_path_factory.mktemp("data"), seconds=6.0)


@pytest.fixture(scope="module")
def arguments(manifest, directory):
    return ("evaluate", "--data", manifest, "-m", directory, "--device", "cpu", "--count", COUNT)


@pytest.fixture(scope="module")
def mixtures(manifest):
    """What the command measures on: {task: [mixtures]}."""
    pool = AudioPool.load([item for item in read_manifest(manifest) if item.split == "dev"], RATE)
    made = list(dev_mixtures(pool, COUNT))
    return {task: [m for m in made if m.task == task] for task in TASKS}
