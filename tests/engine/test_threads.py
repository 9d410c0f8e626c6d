"""Threads that may be asked for: OpenMP ends the process where there are far too many."""

import os

import numpy as np
import pytest
from tiny import CAUSAL, RATE, TUSS, tiny_directory, tiny_model

from ussfast import InputError, Separator
from ussfast.cli.main import main
from ussfast.engine.threads import check_threads
from ussfast.values import shown

CORES = os.cpu_count()


def test_as_many_as_there_are_cores():
    assert [check_threads(count) for count in (1, CORES, np.int64(1), 1.0)] == [1, CORES, 1, 1]
    for count in (0, -1, CORES + 1, 20_000, 10**6, 10**30):
        with pytest.raises(InputError, match=f"1 to at most the {CORES} cores of this machine, got {shown(count)}"):
            check_threads(count)
    for odd in (1.5, "1", None, [1], True):
        with pytest.raises(InputError, match="threads must be a whole number from 1"):
            check_threads(odd)


@pytest.mark.parametrize("config", [CAUSAL, TUSS])
def test_streams_take_no_more(config):
    separator = Separator.from_model(tiny_model(config), ("speech",))
    with pytest.raises(InputError, match="got 20000"):
        separator.session(RATE, threads=20_000)
    if config is CAUSAL:
        with pytest.raises(InputError, match="got 1000000"):
            separator.pool(2, RATE, threads=10**6)
    assert separator.session(RATE, threads=CORES).labels == ("speech",)


@pytest.mark.parametrize(
    "command", [["stream", "in.wav", "-p", "speech", "--stem", "speech", "-m", "DIR"], ["bench", "DIR"]]
)
def test_commands_take_no_more(command, tmp_path, capsys):
    directory = str(tiny_directory(tmp_path, CAUSAL))
    with pytest.raises(SystemExit) as exit:
        main([*(directory if word == "DIR" else word for word in command), "--threads", "20000"])
    err = capsys.readouterr().err
    assert exit.value.code == 2 and "got 20000" in err and err.count("\n") == 1
