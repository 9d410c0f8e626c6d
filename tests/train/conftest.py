"""Training data for the tests of the trainer."""

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
