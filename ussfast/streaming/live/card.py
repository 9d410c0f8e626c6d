"""Live audio: a sound card's callback on one side, the thread that separates on the other, queues between them."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from ussfast.errors import DeviceError, UssfastError
from ussfast.streaming.live import devices
from ussfast.streaming.live.playout import Playout
from ussfast.streaming.live.ring import Ring

# Delay that queues may add when the work falls behind; what is beyond is dropped and counted.
QUEUE_SECONDS = 0.5
WAKE_SECONDS = 1.0


class LiveQueues:
    """Samples on their way from the sound card and back to it.

    The callbacks only copy; they run in the sound card's thread. `blocks` and `write` are for the thread that
    separates.

    Args:
        inputs, outputs: channels; no outputs if nothing is played. With as many as inputs, the input itself is heard
            while the work is late; otherwise silence is.
        capacity: of each queue, in frames.
        sample_rate: in Hz.
    """

    def __init__(self, inputs: int, outputs: int, capacity: int, sample_rate: int):
        self._arrived, self._leaving = Ring(inputs, capacity), Ring(outputs, capacity)
        self._playout = Playout(inputs, outputs, capacity, sample_rate)
        self._news, self._over = threading.Event(), False
        self._lost_in_callback = self._lost_in_write = 0  # each counted by one thread only
        self.clipped = 0

    @property
    def dropouts(self) -> int:
        """How often samples were lost, by the card or here, or the work was so late that the input took over."""
        return self._lost_in_callback + self._lost_in_write + self._playout.overruns

    def capture(self, indata: np.ndarray, frames: int, time: Any, status: Any) -> None:
        """Callback of an input: [frames, channels]."""
        flags = ("input_underflow", "input_overflow", "output_underflow", "output_overflow")
        taken = self._arrived.write(indata.T)
        self._playout.arrived(indata.T, taken)
        self._lost_in_callback += bool(status and any(getattr(status, flag) for flag in flags)) + (taken < frames)
        self._news.set()

    def duplex(self, indata: np.ndarray, outdata: np.ndarray, frames: int, time: Any, status: Any) -> None:
        """Callback of an input and an output: plays silence until the first whole block is there."""
        self.capture(indata, frames, time, status)
        self._playout.play(self._leaving, outdata.T)

    def stopped(self) -> None:
        """The card has stopped: there will be no more blocks."""
        self._over = True
        self._news.set()

    def blocks(self) -> Iterator[np.ndarray]:
        """What arrives, float32 [channels, n], without end; UssfastError once the card has stopped."""
        while True:
            # Python notices an interrupt that comes just before the wait begins only when it wakes.
            self._news.wait(WAKE_SECONDS)
            self._news.clear()
            over = self._over
            if count := len(self._arrived):
                block = np.empty((self._arrived.channels, count), np.float32)
                self._arrived.read(block)
                yield block
            if over:
                raise UssfastError("the sound device has stopped")

    def write(self, samples: np.ndarray) -> None:
        """Plays float [channels, n]; what lies beyond full scale is clipped and counted."""
        self.clipped += int(np.count_nonzero(np.abs(samples) > 1))
        self._lost_in_write += self._leaving.write(np.clip(samples, -1, 1)) < samples.shape[1]


class Card:
    """The sound devices of a live stream.

    Attributes: sample_rate (Hz), channels (of the input).

    Args:
        input, output: index, name or part of the name of a device; None for the default.
        sample_rate: in Hz; default: the input's own.
        channels: of the input.
        plays: whether there is an output.
    Raises:
        DeviceError: sounddevice is missing, there is no such device, or it has too few channels.
    """

    def __init__(self, input: str | None, output: str | None, sample_rate: int | None, channels: int, plays: bool):
        self._module = devices.load()
        self._input, facts = devices.find(self._module, input, "input")
        _check_channels(facts, "input", channels)
        self._output = devices.find(self._module, output, "output") if plays else None
        self.sample_rate = round(facts["default_samplerate"]) if sample_rate is None else sample_rate
        self.channels = channels

    def start(self, block_s: float, hop_s: float, outputs: int) -> tuple[LiveQueues, Any]:
        """Starts the devices: the queues, and what stops the devices when it is closed.

        Args:
            block_s: of the callbacks, in seconds.
            hop_s: that the session computes at once; while it does, so much must fit into the queues.
            outputs: channels to play; ignored where nothing is played.
        Raises:
            DeviceError: too many channels for the output, or settings that the devices refuse.
        """
        block = max(1, round(block_s * self.sample_rate))
        capacity = max(4 * block, round(max(2 * hop_s, QUEUE_SECONDS) * self.sample_rate))
        queues = LiveQueues(self.channels, outputs if self._output else 0, capacity, self.sample_rate)
        settings: dict[str, Any] = {
            "samplerate": self.sample_rate, "blocksize": block, "dtype": "float32", "latency": "low",
            "finished_callback": queues.stopped,
        }  # fmt: skip
        try:
            if self._output is None:
                stream = self._module.InputStream(
                    device=self._input, channels=self.channels, callback=queues.capture, **settings
                )
            else:
                _check_channels(self._output[1], "output", outputs)
                stream = self._module.Stream(
                    device=(self._input, self._output[0]), channels=(self.channels, outputs),
                    callback=queues.duplex, **settings,
                )  # fmt: skip
            try:
                stream.start()
            except BaseException:
                stream.close()
                raise
        except self._module.PortAudioError as error:
            raise DeviceError(f"the sound device cannot be used: {error}") from error
        return queues, stream


def _check_channels(facts: dict[str, Any], kind: str, channels: int) -> None:
    most = facts[f"max_{kind}_channels"]
    if channels > most:
        raise DeviceError(f"{kind} device {facts['name']!r} has {most} channels, {channels} are needed")
