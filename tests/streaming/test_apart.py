"""The process that tunes beside a stream: how it begins, fails and ends."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_tuner import AROUND, CLIPS, PATIENCE_S, SHORT, prompted, until
from tiny import RATE

import ussfast
from ussfast import InputError

HERE = Path(__file__).parent


@pytest.fixture
def separator():
    return prompted()


def test_cancelling_does_not_wait_for_the_first_step(separator):
    session = separator.session(RATE, prompts=("tone",), channels=1)
    before = separator.prompts["tone"]
    learning = session.tune("tone", CLIPS, AROUND, RATE, steps=100_000, **SHORT)
    learning.cancel()
    with pytest.raises(InputError, match="cancelled before its first step"):
        learning.wait(PATIENCE_S)
    assert learning.done and learning.step is None and separator.prompts["tone"] is before


@pytest.mark.skipif(sys.platform != "linux", reason="priorities are Linux's, /proc too")
def test_it_is_a_process_of_low_priority_that_may_be_killed(separator):
    session = separator.session(RATE, prompts=("tone",), channels=1)
    found = []

    def look(step):
        pid = learning._work._process.pid
        found.append((pid, os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid)))
        os.kill(pid, signal.SIGKILL)

    started = threading.Event()
    learning = session.tune("tone", CLIPS, AROUND, RATE, on_step=lambda step: started.wait() and look(step), **SHORT)
    started.set()
    with pytest.raises(ussfast.UssfastError, match="has ended by itself, with -9"):
        learning.wait(PATIENCE_S)
    [(pid, priority, policy)] = found
    assert priority == 19 and policy == os.SCHED_IDLE and not os.path.exists(f"/proc/{pid}")
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) < 19 and os.sched_getscheduler(0) != os.SCHED_IDLE
    assert torch.equal(separator.prompts["tone"].vector, learning.step.prompt.vector)  # what there was stays


def test_clips_that_cannot_go_to_a_process(separator):
    session = separator.session(RATE, prompts=("tone",), channels=1)
    with pytest.raises(InputError, match="clips beside a stream are paths or arrays"):
        session.tune("tone", [lambda: None], AROUND, RATE).wait(PATIENCE_S)


def test_an_error_of_the_real_one(separator):
    session = separator.session(RATE, prompts=("tone",), channels=1)
    with pytest.raises(InputError, match="^clip 1 is silent; give a clip with the sound$"):
        session.tune("tone", [np.zeros(RATE, np.float32)], AROUND, RATE).wait(PATIENCE_S)


SCRIPT = """
import os, sys, threading, time
sys.path[:0] = {path!r}
from fake_tuner import AROUND, CLIPS
from tiny import CAUSAL, RATE, tiny_model
import ussfast

session = ussfast.Separator.from_model(tiny_model(CAUSAL)).session(RATE, prompts=("speech",), channels=1)
learning = session.tune("tone", CLIPS, AROUND, RATE, steps=10**6, patience=10**6, seconds=0.5, mixtures=8, held=4)

def stream():
    while learning.step is None or learning.step.step < 3:
        time.sleep(0.01)
    print(learning._work._process.pid, learning.done, flush=True)
    {end}

threading.Thread(target=stream).start()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("end", ["pass", "os._exit(0)"])
def test_it_ends_with_its_program(end):
    """Not with the main thread, as long as there is a stream in another one."""
    script = SCRIPT.format(path=[*map(str, (HERE, HERE.parent))], end=end)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (found.returncode, found.stderr) == (0, "")
    pid, done = found.stdout.split()
    assert done == "False"
    until(lambda: not os.path.exists(f"/proc/{pid}") or "Z (zombie)" in Path(f"/proc/{pid}/status").read_text())
