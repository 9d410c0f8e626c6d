"""Training data for the tests of the trainer, and the script that embeds what was trained."""

import importlib.util
import sys
from pathlib import Path

import pytest
from tiny import RATE, tiny_manifest

from ussfast.data.pool import AudioPool, read_manifest


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    return tiny_manifest(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def pool(manifest):
    return AudioPool.load([item for item in read_manifest(manifest) if item.split == "train"], RATE)


@pytest.fixture(scope="session")
def dev(manifest):
    from ussfast.evaluate.dev import dev_mixtures

    held = AudioPool.load([item for item in read_manifest(manifest) if item.split == "dev"], RATE)
    return list(dev_mixtures(held, 1, seconds=0.5))


@pytest.fixture(scope="session")
def embed():
    """scripts/embed.py as a module."""
    scripts = Path(__file__).parents[2] / "scripts"
    sys.path.insert(0, str(scripts))
    spec = importlib.util.spec_from_file_location("embed", scripts / "embed.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(scripts))
    return module
