"""Signals in the middle of the work: what is left, how soon it ends, and how."""

import os
import signal
import subprocess
import sys
import time

import pytest
import soundfile
from tiny import CAUSAL, RATE, files_in, noise, tiny_directory

from ussfast.interrupts import Ended, held, unwinding

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture
def started(model, tmp_path):
    """Starts a command, and returns once it has begun to write as many files."""
    running = []

    def start(*arguments, files=1):
        command = [sys.executable, "-m", "ussfast", *map(str, arguments)]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        running.append(process)
        while len(list(tmp_path.rglob("out/**/.ussfast-*"))) < files:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def long(tmp_path):
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", noise(1, 4_000_000).T, RATE)
    return "separate", "a.wav", "b.wav", "c.wav", "-p", "speech", "-o", "out", "--segment", "0.5"


def assert_gone_at_once(folder):
    """All that was half-written; the process itself takes a while to unload torch."""
    ends = time.monotonic() + 2
    while files_in(folder):
        assert time.monotonic() < ends, "it goes on"
        time.sleep(0.02)


def test_the_exit_code_of_an_interrupt_inside_of_generated_source(tmp_path):
    """Python's own note of it does not replace ours; as `python -m`, where it would."""
    (tmp_path / "written.py").write_text(
        "import sys\n"
        "from ussfast.interrupts import exit_code, unwinding\n"
        "with unwinding():\n"
        "    try:\n"
        "        exec('raise KeyboardInterrupt')\n"
        "    except KeyboardInterrupt as interrupt:\n"
        "        sys.exit(exit_code(interrupt))\n"
    )
    ended = subprocess.run([sys.executable, "-m", "written"], cwd=tmp_path)
    assert ended.returncode == CODES[signal.SIGINT]


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGHUP, 2)])
def test_nothing_half_written_is_left_and_at_once(started, long, model, tmp_path, number, jobs):
    process = started(*long, "-m", model, "--jobs", jobs, files=jobs)
    process.send_signal(number)
    assert_gone_at_once(tmp_path / "out")
    _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[number] and err == ""
    assert files_in(tmp_path / "out") == []


def test_an_interrupt_while_the_peak_is_waited_for(started, long, tmp_path):
    """With "rescale" much is written at the end only."""
    causal = tiny_directory(tmp_path, CAUSAL)
    code = (
        "import time, sys; from ussfast.audio import stems; whole = stems.StemWriter._encode\n"
        "def slow(*args): open('replays', 'w').close(); time.sleep(0.2); whole(*args)\n"
        "stems.StemWriter._encode = slow\n"
        "from ussfast.cli.main import main; main(sys.argv[1:])"
    )
    soundfile.write(tmp_path / "a.wav", noise(1, 1_000_000).T * 9, RATE, subtype="FLOAT")
    command = ["separate", "a.wav", "-m", causal, "-p", "speech", "--residual", "-o", "out", "--clip", "rescale"]
    for jobs in (1, 2):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, command), "-j", str(jobs)], cwd=tmp_path, stderr=subprocess.PIPE
        )
        try:
            while not (tmp_path / "replays").exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert_gone_at_once(tmp_path / "out")
            assert process.communicate(timeout=60)[1] == b"" and process.returncode == 130
            assert files_in(tmp_path / "out") == []
        finally:
            process.kill()
        (tmp_path / "replays").unlink()


def test_the_next_run_removes_what_a_killed_one_left(started, long, model, tmp_path):
    process = started(*long, "-m", model)
    process.kill()
    process.wait()
    assert len(files_in(tmp_path / "out")) == 1
    soundfile.write(tmp_path / "a.wav", noise(1, 400).T, RATE)
    command = [sys.executable, "-m", "ussfast", "separate", "a.wav", "-m", model, "-p", "speech", "-o", "out"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60).returncode == 0
    assert files_in(tmp_path / "out") == ["a/speech.wav"]


@pytest.mark.parametrize("number", CODES)
def test_a_stream_keeps_what_it_has_done(started, long, model, tmp_path, number):
    process = started("stream", "a.wav", "-m", model, "-p", "speech,sfx", "--latency", "0.5", "-o", "out", files=2)
    time.sleep(1.5)
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == CODES[number]
    lengths = {soundfile.info(tmp_path / "out" / f"{name}.wav").frames for name in ("speech", "sfx")}
    assert files_in(tmp_path / "out") == ["sfx.wav", "speech.wav"] and len(lengths) == 1 and lengths.pop() > 0


def test_signals_end_once_and_only_where_they_are_ours():
    before = {number: signal.getsignal(number) for number in CODES}
    with unwinding():
        with pytest.raises(Ended) as ended:
            signal.raise_signal(signal.SIGHUP)
        assert ended.value.number == signal.SIGHUP
        signal.raise_signal(signal.SIGTERM)  # what cleans up is not ended again
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with unwinding():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert {number: signal.getsignal(number) for number in CODES} == before


def test_signals_are_held_until_a_step_is_done():
    done = []
    with unwinding(), pytest.raises(Ended):
        with held():
            os.kill(os.getpid(), signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
            done.append(1)
        done.append(2)
    assert done == [1]
