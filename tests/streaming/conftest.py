"""Running `ussfast stream` in this process or in one of its own, without a model."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_session import FakeSeparator
from replaced_stdio import replace

from ussfast.cli import checks
from ussfast.cli.main import main

HERE = Path(__file__).parent
SCRIPT = """
import sys, types
import fake_session
sys.modules["ussfast.separator"] = types.SimpleNamespace(Separator=fake_session.FakeSeparator)
from ussfast.cli import checks
from ussfast.cli.main import main
checks.model = lambda *asked: None  # its prompts are its own
main(sys.argv[1:])
"""


@pytest.fixture
def stream(monkeypatch, capsys):
    """Runs the command with these bytes on standard input: (exit code, bytes on standard output, error text)."""
    monkeypatch.setattr("ussfast.separator.Separator", FakeSeparator)
    monkeypatch.setattr(FakeSeparator, "sessions", [])
    monkeypatch.setattr(checks, "model", lambda *asked: None)  # its prompts are its own

    def run(*arguments, data=b"", kind=io.TextIOWrapper):
        with monkeypatch.context() as patch:
            out = replace(patch, data, kind)
            with pytest.raises(SystemExit) as exit:
                main(["stream", *map(str, arguments)])
            if sys.stdout is not None:
                sys.stdout.flush()
            return exit.value.code or 0, out.getvalue(), capsys.readouterr().err

    return run


@pytest.fixture
def process():
    """Starts the command in a process of its own; its pipes are not buffered here."""
    started = []

    def start(*arguments, **pipes):
        command = [sys.executable, "-c", SCRIPT, "stream", *map(str, arguments)]
        paths = os.pathsep.join([str(HERE), str(HERE.parents[1])])
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | pipes
        started.append(subprocess.Popen(command, bufsize=0, env=os.environ | {"PYTHONPATH": paths}, **pipes))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()
        for pipe in filter(None, (one.stdin, one.stdout, one.stderr)):
            pipe.close()
