"""Live audio with a stand-in for the sound card: queues, dropouts, devices, the command."""

import json
import os
import signal
import sys
import time

import fake_sounddevice
import numpy as np
import pytest
import soundfile
from fake_session import FakeSeparator
from fake_sounddevice import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli_stream import complaint

from ussfast.errors import DeviceError, UssfastError
from ussfast.streaming.live import devices
from ussfast.streaming.live.card import LiveQueues
from ussfast.streaming.live.ring import Ring

RATE = 8000


def ramp(frames, channels=1, start=1):
    """[frames, channels] without zeros and all different."""
    return ((start + np.arange(frames * channels)) / 2**15).astype(np.float32).reshape(frames, channels)


@settings(max_examples=50, deadline=None)
@given(
    capacity=st.integers(1, 20),
    moves=st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=40),
)
def test_a_ring_is_a_bounded_queue(capacity, moves):
    ring, model, next_ = Ring(2, capacity), [], 0
    for writes, count in moves:
        if writes:
            samples = np.arange(next_, next_ + count, dtype=np.float32)
            took = ring.write(np.stack([samples, -samples]))
            assert took == min(count, capacity - len(model))
            model += samples[:took].tolist()
            next_ += count
        else:
            out = np.full((2, count), np.nan, np.float32)
            got = ring.read(out)
            expected, model = model[:count], model[count:]
            assert out[0, :got].tolist() == expected and out[1, :got].tolist() == [-x for x in expected]
        assert len(ring) == len(model)


class Bench:
    """Queues whose two sides are worked by hand."""

    def __init__(self, capacity=100, frames=10):
        self.queues, self.frames, self.sent = LiveQueues(1, 1, capacity, RATE), frames, 0
        self.blocks = self.queues.blocks()

    def tick(self, *names):
        out = np.full((self.frames, 1), np.nan, np.float32)
        block = ramp(self.frames, start=1 + self.sent)
        self.sent += self.frames
        self.queues.duplex(block, out, self.frames, None, flags(*names))
        return (out[:, 0] * 2**15).tolist()


def test_silence_until_the_first_block_is_there_and_then_every_sample():
    bench = Bench()
    assert bench.tick() == [0] * 10
    np.testing.assert_array_equal(next(bench.blocks), ramp(10).T)
    bench.queues.write(ramp(7).T)
    assert bench.tick() == [0] * 10 and bench.queues.dropouts == 0  # not a whole block yet
    bench.queues.write(ramp(13, start=8).T)
    assert bench.tick() + bench.tick() == list(range(1, 21)) and bench.queues.dropouts == 0


def test_late_work_loses_the_newest_input_and_counts():
    bench = Bench(capacity=45)
    for count in (0, 0, 0, 0, 1):
        bench.tick()
        assert bench.queues.dropouts == count
    np.testing.assert_array_equal(next(bench.blocks), ramp(45).T)
    bench.queues.write(ramp(50).T)  # more than the queue to the card takes
    assert bench.queues.dropouts == 2
    assert bench.tick()[:5] == [36, 37, 38, 39, 40]  # what is more than two blocks and a half late is left out


def test_the_card_reports_dropouts():
    bench = Bench()
    for names, count in (((), 0), (("priming_output",), 0), (("input_overflow",), 1), (("output_underflow",), 2)):
        bench.tick(*names)
        assert bench.queues.dropouts == count


def test_what_is_played_stays_within_full_scale():
    bench = Bench()
    bench.queues.write(np.array([[2.0, -3.0] + [0.5] * 8], np.float32))
    assert bench.tick() == [2**15, -(2**15)] + [2**14] * 8 and bench.queues.clipped == 2


def test_a_card_that_stops():
    bench = Bench()
    bench.tick()
    bench.queues.stopped()
    np.testing.assert_array_equal(next(bench.blocks), ramp(10).T)  # what there was still comes
    with pytest.raises(UssfastError, match="the sound device has stopped"):
        next(bench.blocks)


@pytest.mark.parametrize(
    "wanted, kind, index",
    [
        (None, "input", 0), ("1", "input", 1), ("micro", "input", 1), ("usb", "input", 1), ("usb", "output", 2),
        ("built-in audio", "output", 0),
    ],
)  # fmt: skip
def test_find(wanted, kind, index):
    assert devices.find(fake_sounddevice.make(), wanted, kind) == (index, fake_sounddevice.DEVICES[index])


@pytest.mark.parametrize(
    "wanted, kind, says",
    [
        ("2", "input", "no input device 2; choose one of: 0 'Built-in Audio', 1 'USB Microphone'"),
        ("99", "output", "no output device 99; choose"),
        ("piano", "input", "no input devices match 'piano'; choose one of: 0"),
        ("u", "input", "2 input devices match 'u'; choose one of: 0 'Built-in Audio', 1 'USB Microphone'"),
        (None, "output", "no default output device; choose"),
    ],
)
def test_find_fails(wanted, kind, says):
    with pytest.raises(DeviceError, match=says):
        devices.find(fake_sounddevice.make(default=(0, -1)), wanted, kind)


def test_an_exact_name_comes_before_its_longer_namesakes():
    two = [fake_sounddevice.DEVICES[1] | {"name": name} for name in ("default:2", "default")]
    assert devices.find(fake_sounddevice.make(devices=two), "default", "input")[0] == 1


@pytest.fixture
def card(monkeypatch):
    """Installs a fake sounddevice and returns it."""

    def install(*arguments, **settings):
        module = fake_sounddevice.make(*arguments, **settings)
        monkeypatch.setitem(sys.modules, "sounddevice", module)
        return module

    return install


def until(condition):
    """Ticks go on until then; the queues' half a second is more than the test's audio, so nothing is dropped."""
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)


def stop():
    os.kill(os.getpid(), signal.SIGINT)


def nonzero(stream):
    played = np.concatenate(stream.played)
    return played[np.abs(played).sum(1) > 0]


def test_live_from_card_to_card(stream, card):
    audio = ramp(1000, 2)

    def drive(running):
        while running.given < 1000 or (len(nonzero(running)) < 1000 and not running.closed):
            running.tick()
            # A machine that is busy elsewhere would be late otherwise, and the dry signal would be played.
            until(lambda: sum(FakeSeparator.sessions[-1].pushes) >= running.given)
            time.sleep(0.02)
        stop()

    module = card(audio, drive)
    code, out, err = stream(
        "--live", "-p", "half", "--channels", 2, "--input-device", "0", "--output-device", "speaker", "--json"
    )  # fmt: skip
    assert code == 130 and out == b""
    (running,) = module.streams
    assert running.closed and running.settings["device"] == (0, 2) and running.settings["channels"] == (2, 2)
    assert running.settings["samplerate"] == RATE and running.settings["blocksize"] == 160
    np.testing.assert_array_equal(nonzero(running)[:1000], audio / 2)
    facts = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert facts[-1]["summary"] and facts[-1]["seconds"] >= 1000 / RATE


def test_live_to_files_only(stream, card, tmp_path):
    audio = ramp(1600)

    def drive(running):
        while running.given < 1600:
            running.tick()
        until(lambda: sum(FakeSeparator.sessions[-1].pushes) == 1600)
        stop()

    module = card(audio, drive)
    result = stream("--live", "-p", "same", "-p", "half", "-o", tmp_path, "--block", "5", "--rate", RATE)
    assert result[0] == 130 and len(result[1].splitlines()) == 2
    (running,) = module.streams
    assert running.settings["device"] == 0 and running.settings["blocksize"] == 40
    for name, gain in (("same", 1), ("half", 0.5)):
        np.testing.assert_array_equal(soundfile.read(tmp_path / f"{name}.wav")[0][:, None], audio * gain)


def test_the_microphone_is_unplugged(stream, card, tmp_path):
    def drive(running):
        running.tick()
        running.settings["finished_callback"]()

    card(ramp(160), drive)
    result = stream("--live", "-p", "same", "-o", tmp_path)
    assert "the sound device has stopped" in complaint(result, 1)
    assert result[1].decode() == f"{tmp_path}/same.wav\n" and soundfile.info(tmp_path / "same.wav").frames > 0


def test_list_devices(stream, card):
    card()
    code, out, err = stream("--list-devices")
    assert code == 0 and err == ""
    lines = out.decode().splitlines()
    assert [line[:2] for line in lines] == ["  ", "><", "  ", "  ", "> "]
    assert lines[2].split(maxsplit=4) == ["1", "1", "0", "16000", "USB Microphone (ALSA)"]
    card(devices=[])
    assert "this machine has no sound devices" in complaint(stream("--list-devices"))


def test_without_the_extra(stream, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    for arguments in (("--list-devices",), ("--live", "-p", "same")):
        assert "live audio needs sounddevice: pip install 'ussfast[live]'" in complaint(stream(*arguments))


def test_without_portaudio(stream, monkeypatch, tmp_path):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    assert "live audio needs PortAudio" in complaint(stream("--list-devices"))


MISUSE = {
    "input": (("in.wav",), "INPUT is not for --live"),
    "pipe": (("-",), "INPUT is not for --live"),
    "fast": (("--fast",), "--fast is not for --live"),
    "block": (("--block", "0"), "--block must be above 0 and at most 1000 ms, not 0"),
    "played nowhere": (("-o", "out", "--output-device", "0"), "with -o alone nothing is played"),
    "input channels": (("--channels", "3"), "input device 'Built-in Audio' has 2 channels, 3 are needed"),
    "output channels": (
        ("-p", "half", "-p", "quarter", "--all"), "output device 'Built-in Audio' has 2 channels, 3 are needed"
    ),
    "no microphone": (("--input-device", "speaker"), "no input devices match 'speaker'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(stream, card, name):
    module = card()
    arguments, says = MISUSE[name]
    assert says in complaint(stream("--live", "-p", "same", *arguments))
    assert module.streams == []


def test_devices_that_refuse(stream, card):
    card(refuses="Invalid sample rate [PaErrorCode -9997]")
    assert "the sound device cannot be used: Invalid sample rate" in complaint(stream("--live", "-p", "same"))
    card(devices=[fake_sounddevice.DEVICES[2]], default=(-1, 0))
    assert "this machine has no sound device with inputs" in complaint(stream("--live", "-p", "same"))
