"""Live audio without what nobody asked to hear: one object that other programs push their PCM through."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ussfast.errors import AudioError, InputError
from ussfast.integrations.config import FilterConfig, Wanted, wanted
from ussfast.prompts.bank import Prompt
from ussfast.separator import Separator
from ussfast.streaming.live.fallback import Fallback
from ussfast.streaming.live.kept import Kept
from ussfast.streaming.live.pcm import WIDTHS, decode, encode

Form = tuple[np.dtype[Any], int]  # of an array: its type, and how many axes it has


class LiveFilter:
    """Keeps some sounds of a live stream and drops the rest.

    What goes in comes out in the same form and as long, `latency` seconds late, first silence: the sum of the stems
    that are kept, as `Session.push` gives them. Where work takes so much longer than its audio lasts that `max_late_s`
    is used up, the sound fades over to the input itself, equally late, and back once there is time again: no gap, no
    click and no delay that grows. `overruns` counts that.

    One thread processes; prompts may change from any other.

    Attributes: separator, config, session, sample_rate (Hz), channels, clipped (samples put out beyond full scale, in
        int16).

    Args:
        separator: its weights serve any number of filters.
        sample_rate: of the audio, in Hz.
        config: a `FilterConfig`, or what to keep.
        channels: of the audio.
        clock: in seconds.
        session: settings of `Separator.session`.
    Raises:
        PromptError, InputError.
    """

    _form: Form | None  # None for bytes

    def __init__(
        self,
        separator: Separator,
        sample_rate: int,
        config: FilterConfig | Sequence[str] | str,
        channels: int = 1,
        *,
        clock: Callable[[], float] = time.perf_counter,
        **session: Any,
    ):
        config = FilterConfig.of(config)
        self.separator, self.config, self.channels = separator, config, channels
        first = self._wanted(config.keep, config.drop)
        prompts = None if first.asked is None else list(first.asked)
        self.session = separator.session(sample_rate, prompts=prompts, channels=channels, **session)
        self.sample_rate = self.session.sample_rate
        fade = max(1, round(config.fade_ms * self.sample_rate / 1000))
        self._kept = Kept(first.keep, fade, config.floor)
        self._sound = Fallback(self.session, channels, self._kept, fade, config.max_late_s, clock)
        # Left by any thread, taken by the one that processes.
        self._changes: deque[Wanted] = deque()
        self.clipped = 0
        self._warm_up()
        self._begin()

    @property
    def latency_samples(self) -> int:
        return self._sound.latency_samples

    @property
    def latency(self) -> float:
        """Seconds from a sample of the input to the same one of the output; the time of the work comes on top."""
        return self.latency_samples / self.sample_rate

    @property
    def overruns(self) -> int:
        """How often the work was so late that the sound went by as it was."""
        return self._sound.overruns

    @property
    def dry_s(self) -> float:
        """Seconds of audio that were not separated."""
        return self._sound.dry_s

    @property
    def bypass(self) -> bool:
        """Whether the input itself is to be heard, as late as ever; a change fades."""
        return self._sound.bypass

    @bypass.setter
    def bypass(self, value: bool) -> None:
        self._sound.bypass = value

    def process(self, chunk: Any) -> Any:
        """Takes what follows in the stream, any number of samples; gives as many.

        Args:
            chunk: bytes in the format of the config; or an array, int16 or float32, [samples] where there is one
                channel, or [channels, samples].
        Raises:
            AudioError, InputError: bytes that are no whole frames, another type or number of channels. Nothing has
                changed then.
        """
        if isinstance(chunk, (bytes, bytearray, memoryview)):
            data = bytes(chunk)
            width = WIDTHS[self.config.format] * self.channels
            if len(data) % width:
                raise AudioError(
                    f"{len(data)} bytes are no whole frames: {self.channels} channels of {self.config.format} make "
                    f"frames of {width} bytes"
                )
            audio = self.session.checked(decode(data, self.config.format, self.channels))
            self._form = None
            return self._given(self._next(audio))
        if not isinstance(chunk, np.ndarray) or chunk.dtype not in (np.int16, np.float32):
            kind = chunk.dtype if isinstance(chunk, np.ndarray) else type(chunk).__name__
            raise AudioError(f"bytes, or an array of int16 or float32, are needed, not {kind}")
        audio = self.session.checked(chunk)
        self._form = chunk.dtype, chunk.ndim
        return self._given(self._next(audio))

    def flush(self) -> Any:
        """Ends the stream: the last `latency` of it, in the form of what came last; the next chunk begins another.

        Without any audio there is nothing: no bytes.
        """
        if not self._taken:
            return b""
        rest = self._given(self._sound.flush())
        self.reset()
        return rest

    def reset(self) -> None:
        """Forgets all audio and begins another stream with the same prompts."""
        self.session.reset()
        self._begin()

    def set_prompts(self, keep: Sequence[str] | str, drop: Sequence[str] | str = ()) -> None:
        """Keeps something else from the next chunk on, faded in; see `FilterConfig`. Any thread may say so.

        Raises:
            PromptError, InputError: unknown names, or more than the session's `max_prompts`; nothing has changed then.
        """
        new = self._wanted(keep, drop)
        count, most = len(new.asked or ()), self.session.max_prompts
        if count > most:
            raise InputError(f"{count} prompts, but there is room for {most}: open the filter with max_prompts={count}")
        self._changes.append(new)

    def enroll(self, name: str, clips: Iterable[Any], sample_rate: int | None = None) -> Prompt:
        """`Separator.enroll`; where `name` is asked for already, it is this sound from the next chunk on.

        Any thread may do that. It takes a while, so the one that processes should not.
        """
        prompt = self.separator.enroll(name, clips, sample_rate)
        if name in self.session.labels:
            self.session.replace_prompt(name, prompt)
        return prompt

    def close(self) -> None:
        """Ends the stream without its rest."""
        self.session.close()

    def _wanted(self, keep: Sequence[str] | str, drop: Sequence[str] | str) -> Wanted:
        own = self.separator.info.labels if self.separator.prompts.prompt_size is None else ()
        new = wanted(keep, drop, own)
        if new.asked is not None:
            self.separator.labels(new.asked)  # raises for what it does not know
        return new

    def _warm_up(self) -> None:
        """What is only slow the first time is not to be late."""
        hop = math.ceil(self.session.hop_seconds * self.sample_rate)
        self.session.push(np.zeros((self.channels, hop), np.float32))
        self.session.reset()

    def _begin(self) -> None:
        self._sound.begin()
        self._taken, self._form = 0, None

    def _next(self, audio: np.ndarray) -> np.ndarray:
        """[channels, n] of the stream -> as many samples, late."""
        while self._changes:
            self._change(self._changes.popleft())
        self._taken += audio.shape[1]
        return self._sound.push(audio)

    def _change(self, new: Wanted) -> None:
        if new.asked is not None:
            self.session.set_prompts(new.asked)
        self._kept.change(new.keep)

    def _given(self, samples: np.ndarray) -> bytes | np.ndarray:
        """[channels, n] in the form of what came last."""
        if self._form is None:
            return self._encoded(samples, self.config.format)
        dtype, axes = self._form
        if dtype == np.int16:
            whole = np.frombuffer(self._encoded(samples, "s16le"), "<i2")
            samples = whole.reshape(-1, self.channels).T.astype(np.int16)
        return samples[0].copy() if axes == 1 else samples.copy()

    def _encoded(self, samples: np.ndarray, format: str) -> bytes:
        data, clipped = encode(samples, format)
        self.clipped += clipped
        return data
