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
from ussfast.streaming.live.crossfade import Crossfade
from ussfast.streaming.live.kept import Kept
from ussfast.streaming.live.lateness import Lateness
from ussfast.streaming.live.pcm import WIDTHS, decode, encode

SETTLE_S = 0.1  # after a pause, until frames no longer hear the cut
Form = tuple[np.dtype[Any], int]  # of an array: its type, and how many axes it has


class LiveFilter:
    """Keeps some sounds of a live stream and drops the rest.

    What goes in comes out in the same form and as long, `latency` seconds late, first silence: the sum of the stems
    that are kept, as `Session.push` gives them. Where work takes so much longer than its audio lasts that `max_late_s`
    is used up, the sound fades over to the input itself, equally late, and back once there is time again: no gap, no
    click and no delay that grows. `overruns` counts that.

    One thread processes; prompts may change from any other.

    Attributes: separator, config, session, sample_rate (Hz), channels, latency_samples, bypass (set it to hear the
        input itself), clipped (samples put out beyond full scale, in int16), dry_s (seconds of audio that were not
        separated).

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
        self.latency_samples = math.ceil(round(self.session.latency * self.sample_rate, 6))
        self._fade = max(1, round(config.fade_ms * self.sample_rate / 1000))
        self._clock, self._late = clock, Lateness(max(config.max_late_s, 2 * self.session.hop_seconds))
        self._kept = Kept(first.keep, self._fade, config.floor)
        # Left by any thread, taken by the one that processes.
        self._changes: deque[Wanted] = deque()
        self.bypass, self.clipped, self.dry_s = False, 0, 0.0
        self._warm_up()
        self._begin()

    @property
    def latency(self) -> float:
        """Seconds from a sample of the input to the same one of the output; the time of the work comes on top."""
        return self.latency_samples / self.sample_rate

    @property
    def overruns(self) -> int:
        """How often the work was so late that the sound went by as it was."""
        return self._late.overruns

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
            return self._given(self._step(audio))
        if not isinstance(chunk, np.ndarray) or chunk.dtype not in (np.int16, np.float32):
            kind = chunk.dtype if isinstance(chunk, np.ndarray) else type(chunk).__name__
            raise AudioError(f"bytes, or an array of int16 or float32, are needed, not {kind}")
        audio = self.session.checked(chunk)
        self._form = chunk.dtype, chunk.ndim
        return self._given(self._step(audio))

    def flush(self) -> Any:
        """Ends the stream: the last `latency` of it, in the form of what came last; the next chunk begins another.

        Without any audio there is nothing: no bytes.
        """
        if not self._taken:
            return b""
        rest = self._given(self._step(np.zeros((self.channels, self.latency_samples), np.float32), last=True))
        self.reset()
        return rest

    def reset(self) -> None:
        """Forgets all audio and begins another stream with the same prompts."""
        self.session.reset()
        self._late.begin()
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
        settle = min(self.latency_samples, round(SETTLE_S * self.sample_rate))
        self._line = Crossfade(self.channels, self.latency_samples, self._fade, settle)
        self._taken = 0
        self._form = None

    def _step(self, audio: np.ndarray, last: bool = False) -> np.ndarray:
        """[channels, n] of the stream -> as many samples, late."""
        while self._changes:
            self._change(self._changes.popleft())
        if self._wet and not self._line.running and not last:
            self._line.resume()
        seconds, begin = audio.shape[1] / self.sample_rate, self._clock()
        if self._line.running:
            piece = self.session.flush() if last else self.session.push(audio)
            self._line.made(0 if last else audio.shape[1], self._kept(piece, self.session.labels))
            self._late.spent(self._clock() - begin, seconds)
        else:
            self._late.spent(0.0, seconds)
            self.dry_s += seconds
        self._taken += audio.shape[1]
        out = self._line.step(audio, self._wet)
        if self._line.running and self._line.is_dry and not self._wet:
            self._line.pause()
        return out

    @property
    def _wet(self) -> bool:
        """Whether separated sound is wanted, and there is time to make it."""
        return self._late.keeps_up and not self.bypass

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
