"""Commands run in this process, on small recordings."""

import os
from pathlib import Path

import pytest
import soundfile
from tiny import RATE, noise

from ussfast.cli.main import main


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as exit:
        main([str(a) for a in arguments])
    return (exit.value.code or 0, *capsys.readouterr())


def record(path, samples=3000, seed=0):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(os.fsencode(path), "wb") as file:
        form = "FLAC" if str(path).endswith("flac") else "WAV"
        soundfile.write(file, noise(1, samples, seed=seed).T, RATE, format=form)


def load(path):
    return soundfile.read(os.fsencode(path), dtype="float32")[0]
