"""What tests of the command line share."""

import pytest
from commands import record, run
from tiny import tiny_directory

from ussfast.models import SpectralModel


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Directory of a tiny TUSS."""
    return tiny_directory(tmp_path_factory.mktemp("models"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a.wav in it."""
    monkeypatch.chdir(tmp_path)
    record("a.wav")
    return tmp_path


@pytest.fixture
def separated(model, capsys, monkeypatch):
    """Runs `separate`; returns exit code, standard output and error, and how many windows were computed."""
    computed = []
    whole = SpectralModel.separate

    def counted(self, *args):
        computed.append(1)
        return whole(self, *args)

    monkeypatch.setattr(SpectralModel, "separate", counted)

    def separate(*arguments, model=model):
        computed.clear()
        return (*run(capsys, "separate", *arguments, "-m", model), len(computed))

    return separate
