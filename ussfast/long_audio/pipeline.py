"""File in, files out: decode, separate and write at the same time, with bounded queues between them."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ussfast.audio import AudioReader, OutputFormat, Resampler, Written, stem_files
from ussfast.audio.remix import Remix
from ussfast.errors import AudioError

Progress = Callable[[float, float | None], None]  # seconds done, seconds in all (None if unknown)
_DEPTH = 4  # blocks that may wait between two stages
_FRAMES, _LEAST_FRAMES = 1 << 16, 1 << 10  # of such a block: of one or two channels, and of any number


class _Cancelled(Exception):
    """Another stage has failed; its error is the one to report."""


class _Channel:
    """A bounded queue between two threads that either side can shut down."""

    def __init__(self, stop: threading.Event):
        self._queue: queue.Queue[Any] = queue.Queue(_DEPTH)
        self._stop = stop

    def put(self, item: Any) -> None:
        while True:
            self.check()
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue

    def check(self) -> None:
        """_Cancelled once either side has shut it down."""
        if self._stop.is_set():
            raise _Cancelled

    def __iter__(self) -> Iterator[Any]:
        """Items until None arrives."""
        while True:
            self.check()
            try:
                item = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                return
            yield item


class _Stage(threading.Thread):
    """A thread that keeps its error for the caller and stops the others when it fails."""

    def __init__(self, name: str, work: Callable[[], None], stop: threading.Event):
        super().__init__(name=f"ussfast-{name}", daemon=True)
        self._work, self._stop_all = work, stop
        self.error: BaseException | None = None
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except _Cancelled:
            pass
        except BaseException as error:
            self.error = error
            self._stop_all.set()
        finally:
            self._done.set()

    def finish(self, seconds: float | None = None) -> bool:
        """Waits until its work is done, or for so long; whether it is. Not by `join`: of a thread whose join was
        interrupted, Python believes that it has ended."""
        return self._done.wait(seconds)


def separate_to_files(
    reader: AudioReader,
    model_rate: int,
    separate: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]],
    paths: list[Path],
    residual: bool,
    output: OutputFormat,
    progress: Progress | None,
    sources: int,
    keep: Sequence[int],
    remix: Remix,
) -> Written:
    """Runs one file through `separate` and writes its stems; returns the paths, and what is to be said about them.

    Args:
        reader: the open input.
        model_rate: in Hz; audio is converted to it and back.
        separate: from blocks [channels, n] at the model's rate to blocks [sources, channels, m] at that rate.
        paths: of the outputs, one per source that is kept, and the residual last if asked for.
        residual: also writes the input minus the sum of all stems.
        output: what the files are like.
        progress: called from the calling thread as separated blocks come, and now and then while the last are written;
            what it raises stops the work.
        sources: number of all sources.
        keep: which of them are written.
        remix: what is done to stems at the file's rate.
    Raises:
        AudioError, OutputError, or what `separate` raises; no output is left then.
    """
    stop = threading.Event()
    decoded, separated = _Channel(stop), _Channel(stop)
    # Input blocks that stems still need; as many as lie between decoding and writing, so bounded too.
    originals: deque[np.ndarray] = deque()
    frames_in = 0
    files = None
    needed = residual or bool(remix)

    def decode() -> None:
        nonlocal frames_in
        resampler = Resampler(reader.channels, reader.sample_rate, model_rate)
        reader.shorten(_longest(reader.channels))
        for block in reader:
            frames_in += block.shape[1]
            if needed:
                originals.append(block)
            decoded.put(resampler.push(block))
        if frames_in == 0:
            raise AudioError(f"{reader.path}: there is no audio in it")
        decoded.put(resampler.flush())
        decoded.put(None)

    def write() -> None:
        nonlocal files
        form = reader.sample_rate, reader.channels, output, reader.frames
        with stem_files(paths, *form, between=decoded.check) as files:
            # Where no sum is needed, what nobody will hear need not be converted.
            summed = residual or remix.sum_to_mixture
            wanted, written = (slice(None), keep) if summed else (list(keep), range(len(keep)))
            back = _Back(sources if summed else len(keep), reader.channels, model_rate, reader.sample_rate)

            def put(stems: np.ndarray) -> None:
                mixture = _take(originals, stems.shape[-1] if needed else 0, reader.channels)
                stems = remix(stems, mixture) if needed else stems
                assert files is not None
                files.write([*(stems[i] for i in written), *([mixture - stems.sum(0)] if residual else [])])

            for block in separated:
                put(back.push(block[wanted]))
            put(back.flush(frames_in))

    stages = [_Stage("decode", decode, stop), _Stage("write", write, stop)]
    total = None if reader.frames is None else reader.frames / reader.sample_rate
    try:
        done = 0
        for block in _pieces(separate(decoded)):
            separated.put(block)
            done += block.shape[-1]
            if progress is not None:
                progress(done / model_rate, total)
        separated.put(None)
        for stage in stages:
            while not stage.finish(0.5):
                if progress is not None:
                    progress(done / model_rate, total)
    except _Cancelled:
        pass
    except BaseException:
        stop.set()
        raise
    finally:
        for stage in stages:
            stage.finish()
    for stage in stages:
        if stage.error is not None:
            raise stage.error
    assert files is not None
    return files.written()


def _longest(channels: int) -> int:
    return max(_LEAST_FRAMES, min(_FRAMES, 2 * _FRAMES // channels))


def _pieces(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """[..., channels, n] in pieces that are shorter the more channels there are: those that wait, and what is made of
    them on their way, need no more memory than those of stereo."""
    for block in blocks:
        size = _longest(block.shape[-2])
        for first in range(0, block.shape[-1], size):
            yield block[..., first : first + size]


class _Back:
    """All sources from the model's rate to the file's."""

    def __init__(self, sources: int, channels: int, rate_in: int, rate_out: int):
        self.shape = (sources, channels)
        self.resampler = Resampler(sources * channels, rate_in, rate_out)

    def push(self, block: np.ndarray) -> np.ndarray:
        return self.resampler.push(block.reshape(-1, block.shape[-1])).reshape(*self.shape, -1)

    def flush(self, frames: int) -> np.ndarray:
        return self.resampler.flush(frames).reshape(*self.shape, -1)


def _take(blocks: deque[np.ndarray], count: int, channels: int) -> np.ndarray:
    """The next `count` frames of the queued blocks."""
    parts = [np.zeros((channels, 0), np.float32)]
    while count:
        block = blocks.popleft()
        if block.shape[1] > count:
            blocks.appendleft(block[:, count:])
            block = block[:, :count]
        parts.append(block)
        count -= block.shape[1]
    return np.concatenate(parts, 1)
