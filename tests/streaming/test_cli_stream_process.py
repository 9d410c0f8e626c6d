"""`ussfast stream` between other programs: late and vanishing readers, interrupts, what is left then."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
from test_cli_stream import RATE, RAW, numbers, wav

from ussfast.interrupts import held


def feed(pipe, data, close=True):
    """Writes in a thread of its own; how many bytes were taken so far is in the list."""
    taken = [0]

    def work():
        try:
            while taken[0] < len(data):
                taken[0] += os.write(pipe.fileno(), data[taken[0] : taken[0] + 4096])
            if close:
                pipe.close()
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return taken, thread


def take(pipe, count):
    """Exactly so many bytes."""
    data = b""
    while len(data) < count:
        piece = pipe.read(count - len(data))
        assert piece, f"ended after {len(data)} of {count} bytes"
        data += piece
    return data


def test_a_late_reader_holds_everything_up_and_loses_nothing(process):
    data = numbers(1_000_000).tobytes()
    running = process("-p", "same", *RAW)
    taken, thread = feed(running.stdin, data)
    head = take(running.stdout, 1000)
    before = -1
    while before != taken[0]:  # until nothing moves any more
        before = taken[0]
        time.sleep(0.5)
    assert taken[0] < len(data)
    rest = running.stdout.read(1)
    while piece := running.stdout.read(1 << 20):
        rest += piece
    thread.join()
    assert head + rest == data
    assert running.wait(60) == 0 and running.stderr.read() == b""


def test_a_reader_that_goes_away(process, tmp_path):
    running = process("-p", "same", "--stem", "same", "-o", tmp_path, *RAW)
    _, thread = feed(running.stdin, numbers(1_000_000).tobytes())
    take(running.stdout, 1000)
    running.stdout.close()
    assert running.wait(60) == 1 and running.stderr.read() == b""
    thread.join()
    assert [p.name for p in tmp_path.iterdir()] == ["same.wav"]
    assert soundfile.info(tmp_path / "same.wav").frames > 500


def test_an_interrupt_while_it_waits_for_input_keeps_all_that_came(process, tmp_path):
    audio = numbers(5000)
    running = process("-p", "same", "-p", "half", "--stem", "same", "-o", tmp_path, *RAW)
    feed(running.stdin, audio.tobytes(), close=False)
    take(running.stdout, 2 * (5000 - 2 * 160))  # all but what the session holds back
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130 and b"Traceback" not in running.stderr.read()
    for name, gain in (("same", 1), ("half", 0.5)):
        np.testing.assert_array_equal(soundfile.read(tmp_path / f"{name}.wav")[0][:, None], audio / 2**15 * gain)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupt_before_any_audio_leaves_no_files(process, tmp_path):
    running = process("-p", "same", "-o", tmp_path, *RAW)
    while not list(tmp_path.iterdir()):
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130 and list(tmp_path.iterdir()) == []


def test_an_interrupt_of_a_file_at_its_own_pace(process, tmp_path):
    wav(tmp_path / "long.wav", frames=60 * RATE)
    running = process(tmp_path / "long.wav", "-p", "same", "-p", "half", "-o", tmp_path / "out", "--json")
    line = json.loads(running.stderr.readline())
    assert not line["summary"] and line["seconds"] < 30
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130
    facts = [json.loads(line) for line in running.stderr.read().splitlines() if line.startswith(b"{")]
    assert facts[-1]["summary"]
    frames = [soundfile.info(tmp_path / f"out/{name}.wav").frames for name in ("same", "half")]
    assert frames[0] == frames[1] == round(facts[-1]["seconds"] * RATE)
    assert running.stdout.read().split() == [str(tmp_path / f"out/{n}.wav").encode() for n in ("same", "half")]


@pytest.mark.parametrize("output", ["/dev/full"])
def test_a_full_disk_behind_standard_output(process, output):
    with open(output, "wb") as full:
        running = process("-p", "same", *RAW, stdout=full)
    error = running.communicate(numbers(1000).tobytes(), timeout=60)[1].decode()
    assert running.returncode == 1
    assert error == "ussfast: standard output: could not be written: No space left on device\n"


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from ussfast.cli.main import main\n"
        "try: main(['stream', '--help'])\nfinally: assert 'numpy' not in %s"
    )
    command = [sys.executable, "-c", code % "sys.modules"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--prompt" in done.stdout and done.stderr == ""


def test_an_interrupt_is_held_until_the_step_is_done():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with held():
            signal.raise_signal(signal.SIGINT)
            done.append(1)
        done.append(2)
    assert done == [1]
    with pytest.raises(SystemExit) as exit:
        with held():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    assert exit.value.code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupts_of_others_are_left_alone():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    try:
        with held():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    names = []

    def elsewhere():
        with held():
            names.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert names == [signal.default_int_handler]
