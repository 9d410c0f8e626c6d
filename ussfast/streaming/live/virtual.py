"""A microphone that other programs can choose: a source of PulseAudio or PipeWire that is fed through a pipe.

`pactl` makes it and removes it; with PipeWire that needs its PulseAudio server, pipewire-pulse, which desktops have.
"""

import os
import re
import select
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ussfast.errors import DeviceError, InputError, UssfastError
from ussfast.interrupts import held
from ussfast.streaming.live.pcm import WIDTHS, encode

FORMAT = "s16le"
LONGEST_NAME = 64
PACTL_S = 10.0  # that pactl may take; it answers at once, or its server hangs
PIPE_S = 0.1  # of sound in the pipe at most, so that who begins to listen hears nothing old


def check(name: str) -> str:
    """Where `pactl` is.

    Raises:
        InputError: a name that no microphone can have. DeviceError: there is no pactl.
    """
    if not re.fullmatch(r"[\w.-][\w .-]*", name) or len(name) > LONGEST_NAME:
        raise InputError(
            f"--virtual {name}: a name of 1 to {LONGEST_NAME} letters, digits, spaces, '.', '_' and '-' is needed"
        )
    pactl = shutil.which("pactl")
    if pactl is None:
        raise DeviceError(
            "a virtual microphone needs pactl (package pulseaudio-utils) and PulseAudio, or PipeWire's pipewire-pulse"
        )
    return pactl


class VirtualMicrophone:
    """A source that is there until `close`.

    Attributes: clipped (samples beyond full scale so far).

    Args:
        name: that people see; programs know it as ussfast_NAME.
        sample_rate: in Hz. channels: of it.
    Raises:
        InputError, DeviceError: as `check`; no server answers, it refuses, or there is such a microphone already.
    """

    def __init__(self, name: str, sample_rate: int, channels: int):
        self._pactl, self.clipped = check(name), 0
        self._width = WIDTHS[FORMAT] * channels
        source = "ussfast_" + re.sub(r"\W", "_", name)
        for line in self._call("list", "short", "modules").splitlines():
            number, _, module = line.partition("\t")
            if f"source_name={source} " in f"{module} ":
                raise DeviceError(
                    f"there is a microphone {name!r} already: choose another name, or end what made it "
                    f"('pactl unload-module {number}' where that is gone)"
                )
        self._folder: Path | None = None
        self._module: str | None = None
        self._pipe: int | None = None
        try:
            with held():  # a source that nobody knows of could not be removed
                # The server makes the pipe itself, for everybody; nobody else may look into the folder.
                self._folder = Path(tempfile.mkdtemp(prefix="ussfast-"))
                path = self._folder / "microphone"
                self._module = self._call(
                    "load-module", "module-pipe-source", f"source_name={source}", f"file={path}", f"format={FORMAT}",
                    f"rate={sample_rate}", f"channels={channels}",
                    f"source_properties='device.description=\"{name}\"'",
                ).strip()  # fmt: skip
                self._pipe = self._opened(path, round(PIPE_S * sample_rate) * self._width)
        except BaseException:
            self.close()
            raise

    def write(self, samples: np.ndarray) -> None:
        """Takes float [channels, n], without waiting: what does not fit into the pipe is lost, since nobody listens.

        Raises UssfastError once the server is gone.
        """
        assert self._pipe is not None
        data, clipped = encode(samples, FORMAT)
        self.clipped += clipped
        # A write of this size goes into the pipe as a whole or not at all, so frames are never torn.
        size = select.PIPE_BUF - select.PIPE_BUF % self._width
        try:
            for at in range(0, len(data), size):
                os.write(self._pipe, data[at : at + size])
        except BlockingIOError:
            pass
        except OSError as error:
            raise UssfastError(f"the virtual microphone is gone: {error.strerror or error}") from error

    def close(self) -> None:
        """Removes it. Once is enough, more do nothing."""
        with held():
            if self._pipe is not None:
                os.close(self._pipe)
            if self._module is not None:
                with suppress(DeviceError):  # the server is gone, and its sources with it
                    self._call("unload-module", self._module)
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            self._pipe = self._module = self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self, path: Path, size: int) -> int:
        try:
            pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            raise DeviceError(f"the sound server does not read from its pipe: {error.strerror or error}") from error
        with suppress(ImportError, OSError, AttributeError):  # Linux has it; a larger pipe only keeps old sound
            import fcntl

            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
        return pipe

    def _call(self, *arguments: str) -> str:
        """What pactl prints; in a session of its own, so that Ctrl-C in a terminal does not end it half-way."""
        try:
            done = subprocess.run(
                [self._pactl, *arguments], capture_output=True, text=True, timeout=PACTL_S, start_new_session=True,
                stdin=subprocess.DEVNULL, env=os.environ | {"LC_ALL": "C"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DeviceError(f"pactl {arguments[0]}: no answer in {PACTL_S:g} s from the sound server") from None
        except OSError as error:
            raise DeviceError(f"pactl cannot be run: {error.strerror or error}") from error
        if done.returncode:
            why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise DeviceError(f"no virtual microphone: pactl {arguments[0]}: {why}; is PulseAudio or PipeWire running?")
        return done.stdout
