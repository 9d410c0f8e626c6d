"""A stand-in for the module sounddevice: two cards, and streams that a thread of the test drives."""

import threading
from types import SimpleNamespace

import numpy as np

DEVICES = [
    {"name": "Built-in Audio", "hostapi": 0, "max_input_channels": 2, "max_output_channels": 2,
     "default_samplerate": 8000.0},
    {"name": "USB Microphone", "hostapi": 0, "max_input_channels": 1, "max_output_channels": 0,
     "default_samplerate": 16000.0},
    {"name": "USB Speaker", "hostapi": 1, "max_input_channels": 0, "max_output_channels": 8,
     "default_samplerate": 48000.0},
]  # fmt: skip


class PortAudioError(Exception):
    pass


def flags(*names):
    """What a callback is told; false without flags, as that of sounddevice."""
    every = ("input_underflow", "input_overflow", "output_underflow", "output_overflow", "priming_output")
    return type("Flags", (), {name: name in names for name in every} | {"__bool__": lambda self: bool(names)})()


class FakeStream:
    """Gives `module.audio` block by block and then silence, and keeps what it is told to play.

    `module.drive(stream)` is called in a thread once the stream has started.
    """

    def __init__(self, module, **settings):
        if module.refuses:
            raise PortAudioError(module.refuses)
        self.module, self.settings, self.played, self.given = module, settings, [], 0
        self.closed = False
        self._thread = threading.Thread(target=module.drive, args=(self,), daemon=True)
        module.streams.append(self)

    def tick(self, status=None):
        frames, channels = self.settings["blocksize"], self.settings["channels"]
        inputs, outputs = channels if isinstance(channels, tuple) else (channels, 0)
        block = np.zeros((frames, inputs), np.float32)
        piece = self.module.audio[self.given : self.given + frames]
        block[: len(piece)] = piece
        self.given += frames
        status = flags() if status is None else status
        if not outputs:
            self.settings["callback"](block, frames, None, status)
            return
        out = np.full((frames, outputs), np.nan, np.float32)
        self.settings["callback"](block, out, frames, None, status)
        self.played.append(out)

    def start(self):
        self._thread.start()

    def close(self):
        self.closed = True


def make(audio=(), drive=lambda stream: None, devices=DEVICES, default=(0, 0), refuses=""):
    module = SimpleNamespace(
        PortAudioError=PortAudioError, audio=audio, drive=drive, refuses=refuses, streams=[],
        default=SimpleNamespace(device=default),
        query_devices=lambda: tuple(devices), query_hostapis=lambda: ({"name": "ALSA"}, {"name": "JACK"}),
    )  # fmt: skip
    module.Stream = module.InputStream = lambda **settings: FakeStream(module, **settings)
    return module
