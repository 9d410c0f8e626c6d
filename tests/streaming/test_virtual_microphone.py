"""The microphone that other programs can choose, with a `pactl` of the tests' own."""

import os
import signal
import sys
import time
from pathlib import Path

import fake_sounddevice
import numpy as np
import pytest
from fake_pactl import FakePactl
from fake_session import FakeSession
from test_cli_stream import complaint
from test_live import ramp

from ussfast.errors import DeviceError, InputError, UssfastError
from ussfast.streaming.live import virtual
from ussfast.streaming.live.command import OneSound
from ussfast.streaming.live.pcm import encode
from ussfast.streaming.live.virtual import VirtualMicrophone

RATE = 8000


@pytest.fixture
def pactl(tmp_path, monkeypatch):
    fake = FakePactl(tmp_path, monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield fake
    fake.kill()


def left(tmp_path):
    return list(tmp_path.glob("ussfast-*"))


def test_it_is_made_and_fed_and_removed(pactl, tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, (2, 500)).astype(np.float32)
    with VirtualMicrophone("Clean voice", RATE, 2) as microphone:
        load = pactl.calls[-1]
        (folder,) = left(tmp_path)
        assert load == [
            "load-module", "module-pipe-source", "source_name=ussfast_Clean_voice", f"file={folder}/microphone",
            "format=s16le", f"rate={RATE}", "channels=2", "source_properties='device.description=\"Clean voice\"'",
        ]  # fmt: skip
        assert folder.stat().st_mode & 0o777 == 0o700
        for at in range(0, 500, 100):
            microphone.write(samples[:, at : at + 100])
        assert pactl.heard(2000) == encode(samples, "s16le")[0]
    assert pactl.calls[-1] == ["unload-module", "7"] and pactl.modules == "" and not left(tmp_path)
    microphone.close()
    assert len(pactl.calls) == 3


def test_nobody_listens(pactl, tmp_path):
    """Nothing waits for that, and who comes later hears whole frames, and little of what was before."""
    pactl.say("deaf")
    samples = np.arange(3 * 40000, dtype=np.float32).reshape(40000, 3).T / 2**17
    with VirtualMicrophone("m", RATE, 3) as microphone:
        for at in range(0, 40000, 1000):
            microphone.write(samples[:, at : at + 1000])
        (folder,) = left(tmp_path)
        pipe = os.open(folder / "microphone", os.O_RDONLY | os.O_NONBLOCK)
        held = os.read(pipe, 1 << 20)
        os.close(pipe)
    frames = np.frombuffer(held, "<i2").reshape(-1, 3)
    assert 0 < len(frames) <= 0.5 * RATE
    expected = np.frombuffer(encode(samples, "s16le")[0], "<i2").reshape(-1, 3)
    assert all(frame.tobytes() in expected.tobytes() for frame in frames[:: len(frames) // 20])
    np.testing.assert_array_equal(frames[0], expected[0])


def test_what_is_beyond_full_scale_is_clipped_and_counted(pactl):
    with VirtualMicrophone("m", RATE, 1) as microphone:
        microphone.write(np.float32([[0.5, 2, -2]]))
        assert microphone.clipped == 2
        assert np.frombuffer(pactl.heard(6), "<i2").tolist() == [16384, 32767, -32768]


def test_the_server_goes_away(pactl, tmp_path):
    with pytest.raises(UssfastError, match="the virtual microphone is gone"), VirtualMicrophone("m", RATE, 1) as made:
        pactl.kill()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            made.write(np.zeros((1, 10), np.float32))
    assert not left(tmp_path)


def test_there_is_one_already(pactl, tmp_path):
    with VirtualMicrophone("m", RATE, 1):
        with pytest.raises(DeviceError, match="a microphone 'm' already: .*pactl unload-module 7"):
            VirtualMicrophone("m", RATE, 1)
        assert len(left(tmp_path)) == 1 and [call[0] for call in pactl.calls] == ["list", "load-module", "list"]


def test_a_server_that_refuses_or_hangs(pactl, tmp_path, monkeypatch):
    pactl.say("refuses", "Connection failure:\nConnection refused\n")
    with pytest.raises(DeviceError, match="pactl list: Connection failure: Connection refused; is PulseAudio or PipeW"):
        VirtualMicrophone("m", RATE, 1)
    (pactl.folder / "refuses").unlink()
    pactl.say("hangs")
    monkeypatch.setattr(virtual, "PACTL_S", 0.1)
    with pytest.raises(DeviceError, match="no answer in 0.1 s"):
        VirtualMicrophone("m", RATE, 1)
    assert not left(tmp_path)


def test_an_interrupt_while_it_is_made_removes_it(pactl, tmp_path):
    pactl.say("interrupts")
    with pytest.raises(KeyboardInterrupt):
        VirtualMicrophone("m", RATE, 1)
    assert pactl.calls[-1] == ["unload-module", "7"] and not left(tmp_path)


@pytest.mark.parametrize("name", ["", " a", "a\nb", 'a"b', "a'b", "a/b", "a\\b", "-a=b", "x" * 65])
def test_names_that_cannot_be(pactl, name):
    with pytest.raises(InputError, match="letters, digits"):
        VirtualMicrophone(name, RATE, 1)
    assert pactl.calls == []


def test_without_pactl(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="pulseaudio-utils"):
        VirtualMicrophone("m", RATE, 1)


def test_live_to_a_virtual_microphone(stream, pactl, monkeypatch, tmp_path):
    audio = ramp(1600, 2)

    def drive(running):
        while running.given < 1600:
            running.tick()
            pactl.heard(4 * running.given)
        os.kill(os.getpid(), signal.SIGINT)

    module = fake_sounddevice.make(audio, drive)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr("ussfast.streaming.live.command.QUEUE_SECONDS", 60)  # a machine may be busy with other things
    prompts = ("-p", "half", "-p", "quarter", "--stem", "half")
    code, out, err = stream("--live", *prompts, "--channels", 2, "--virtual", "Clean voice", "--stats")
    assert code == 130 and out == b"" and "dropouts 0, clipped 0" in err
    (running,) = module.streams
    assert running.closed and running.settings["channels"] == 2 and running.settings["device"] == 0  # no output
    heard = np.frombuffer(pactl.heard(0), "<i2").reshape(-1, 2)
    expected = np.frombuffer(encode(audio.T / 2, "s16le")[0], "<i2").reshape(-1, 2)
    late = 320  # samples of the session's latency: silence, then what was asked for
    assert len(heard) >= 1600 and not heard[:late].any()
    np.testing.assert_array_equal(heard[late:1600], expected[: 1600 - late])
    assert [call[0] for call in pactl.calls] == ["list", "load-module", "unload-module"]
    assert "rate=8000" in pactl.calls[1] and "channels=2" in pactl.calls[1] and not left(tmp_path)


def test_all_stems_go_out_as_channels(stream, pactl, monkeypatch):
    """With several stems there is no sound that the input could take the place of."""
    audio = ramp(800)

    def drive(running):
        while running.given < 800:
            running.tick()
            pactl.heard(4 * (running.given - 160))
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setitem(sys.modules, "sounddevice", fake_sounddevice.make(audio, drive))
    assert stream("--live", "-p", "half", "-p", "quarter", "--all", "--virtual", "m")[0] == 130
    heard = np.frombuffer(pactl.heard(0), "<i2").reshape(-1, 2)
    both = np.stack([audio[:, 0] / 2, audio[:, 0] / 4])
    np.testing.assert_array_equal(heard[:640], np.frombuffer(encode(both, "s16le")[0], "<i2").reshape(-1, 2)[:640])


def test_while_work_is_late_the_input_is_heard():
    now, cost = [0.0], [0.0]
    session = FakeSession(("half", "quarter"), RATE, 1, "silence")
    push = session.push

    def slow(chunk):
        now[0] += cost[0]
        return push(chunk)

    session.push = slow
    one = OneSound(session, "half", 1, late_s=0.2, clock=lambda: now[0])
    audio = np.ones((1, 160), np.float32)
    heard = []
    for costs in [0.0] * 10 + [1.0] + [0.0] * 69:
        cost[0] = costs
        heard.append(one.push(audio)["half"])
    heard = np.concatenate([*heard, one.flush()["half"]], 1)[0]
    late = 320
    assert one.overruns == 1 and len(heard) == 80 * 160 + late and not heard[:late].any()
    assert set(heard[late : 10 * 160]) == {0.5} and set(heard[11 * 160 : 60 * 160]) == {1.0}
    assert set(heard[70 * 160 :]) == {0.5}
    assert np.abs(np.diff(heard[late:])).max() <= 0.5 / 80 + 1e-6  # 10 ms from one to the other


def test_a_card_that_refuses_leaves_no_microphone(stream, pactl, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sounddevice", fake_sounddevice.make(refuses="Invalid sample rate"))
    assert "Invalid sample rate" in complaint(stream("--live", "-p", "same", "--virtual", "m"))
    assert pactl.calls[-1] == ["unload-module", "7"] and not left(tmp_path)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--live", "--virtual", "a/b"), "--virtual a/b: a name of 1 to 64 letters"),
        (("--live", "--virtual", "m", "--output-device", "0"), "--output-device is not for --virtual"),
        (("--live", "--virtual", "m", "-o", "out"), "choose what goes to --virtual with --stem or --all"),
        (("--virtual", "m", "--rate", "8000"), "--virtual is for --live only"),
        (("--live", "--virtual", "m", "-p", "half"), "several stems (same, half)"),
    ],
)
def test_misuse(stream, pactl, monkeypatch, arguments, says):
    monkeypatch.setitem(sys.modules, "sounddevice", fake_sounddevice.make())
    assert says in complaint(stream("-p", "same", *arguments))
    assert pactl.calls == [] and not Path("out").exists()


def test_without_pactl_nothing_is_loaded(stream, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "a virtual microphone needs pactl" in complaint(stream("--live", "-p", "same", "--virtual", "m"))
