"""Spectrograms of a mixture and its stems in one picture, one below the other, on the same scales."""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ussfast.audio.atomic import atomic_write
from ussfast.audio.reading import AudioReader, probe
from ussfast.errors import InputError

SUFFIXES = (".png", ".pdf", ".svg")
HIGHEST_HZ, ROWS, COLUMNS, WINDOW_SECONDS = 16000.0, 256, 1200, 0.046
COLOURS = 40  # 1.5 dB each; more make the file twice as large
RANGE_DB, BRIGHTEST = 60.0, 0.995  # of all points of the first track, those above are drawn alike
TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000, 16000)


class Track(NamedTuple):
    """What one spectrogram shows: `blocks` are [channels, samples], in order, of any length."""

    label: str
    rate: int
    seconds: float
    blocks: Iterable[np.ndarray]


def check_picture(path: Path) -> None:
    """InputError where no picture can be drawn into this file, before anything is computed."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: a picture is {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, not {path.suffix or path.name}"
        )
    try:
        found = importlib.util.find_spec("matplotlib")
    except ValueError:  # it is marked as missing
        found = None
    if found is None:
        raise InputError("a picture needs matplotlib: pip install 'ussfast[evaluate]'")


def draw_files(path: Path, mixture: Path, stems: Sequence[tuple[str, Path]]) -> None:
    """A picture of a recording and of the stems that were written of it, with memory that does not depend on duration.

    Raises:
        InputError as `check_picture`, AudioError for files that cannot be read, OutputError.
    """
    info = probe(mixture)
    seconds = info.seconds
    if seconds is None:  # its header does not say; the stems are as long
        seconds = probe(stems[0][1]).seconds if stems else None
    if seconds is None:
        seconds = sum(block.shape[1] for block in AudioReader(mixture)) / info.sample_rate
    files = [("mixture", mixture), *stems]
    draw(path, [Track(label, probe(file).sample_rate, seconds, AudioReader(file)) for label, file in files])


def draw(path: str | Path, tracks: Sequence[Track]) -> None:
    """Writes the picture; the file appears complete or not at all.

    Brightness is power in dB, the same in all panels: 0 is what 0.5 % of the first track, the mixture, exceed.
    Frequencies are on the mel scale, up to 16 kHz or what the first track has.

    Raises:
        InputError as `check_picture`, OutputError.
    """
    path = Path(path)
    check_picture(path)
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # takes half a second, and most separations need none

    top, seconds = min(HIGHEST_HZ, tracks[0].rate / 2), tracks[0].seconds
    powers = [spectrogram(track, top) for track in tracks]
    peak = max(float(np.quantile(powers[0], BRIGHTEST)), 1e-20)
    figure = Figure(figsize=(9, 0.8 + 1.6 * len(tracks)), layout="constrained")
    panels = figure.subplots(len(tracks), 1, sharex=True, squeeze=False)[:, 0]
    ticks = [hz for hz in TICKS_HZ if hz <= top]
    colours = colormaps["magma"].resampled(COLOURS)
    for panel, track, power in zip(panels, tracks, powers, strict=True):
        level = 10 * np.log10(np.maximum(power / peak, 1e-20))
        image = panel.imshow(
            level, origin="lower", aspect="auto", extent=(0, seconds, 0, float(_mel(top))), cmap=colours,
            vmin=-RANGE_DB, vmax=0, interpolation="antialiased", interpolation_stage="data",
        )  # fmt: skip
        panel.set_yticks([float(_mel(hz)) for hz in ticks], [f"{hz / 1000:g}" for hz in ticks], fontsize=8)
        panel.set_ylabel("kHz")
        panel.set_title(track.label, loc="left", fontsize=11, fontweight="bold", pad=3)
    panels[-1].set_xlabel("seconds" if seconds < 300 else "minutes:seconds")
    if seconds >= 300:
        panels[-1].xaxis.set_major_formatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02d}")
    figure.colorbar(image, ax=list(panels), label="level (dB)", extend="both", pad=0.01, aspect=40)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)


def spectrogram(track: Track, top_hz: float) -> np.ndarray:
    """Power [ROWS, columns], columns at most COLUMNS: rows are equally wide on the mel scale from 0 to `top_hz`.

    Channels are averaged, and where frames are more than columns those of a column too, so that nothing is left out.
    """
    size = 4 * max(1, round(WINDOW_SECONDS * track.rate / 4))  # as long at every rate, so that stems compare
    hop, window = size // 4, np.hanning(size).astype(np.float32)
    samples = max(1, round(track.seconds * track.rate))
    columns = min(COLUMNS, -(-samples // hop))
    to_rows = _rows(size, track.rate, top_hz)
    total, counts = np.zeros((ROWS, columns)), np.zeros(columns)
    rest, first = None, 0
    for block in _padded(track.blocks, size):
        rest = block if rest is None else np.concatenate([rest, block], 1)
        frames = max(0, (rest.shape[1] - size) // hop + 1)
        if not frames:
            continue
        views = np.lib.stride_tricks.sliding_window_view(rest, size, axis=1)[:, : frames * hop : hop]
        power = (np.abs(np.fft.rfft(views * window)) ** 2).mean(0)
        places = np.minimum((first + np.arange(frames)) * hop * columns // samples, columns - 1)
        np.add.at(total.T, places, power @ to_rows.T)
        np.add.at(counts, places, 1)
        rest, first = rest[:, frames * hop :], first + frames
    return total / np.maximum(counts, 1) / size**2


def _padded(blocks: Iterable[np.ndarray], size: int) -> Iterable[np.ndarray]:
    """Half a window of silence before and behind: frames are centred. Blocks are at most 65536 long."""
    channels = 1
    for number, block in enumerate(blocks):
        channels = len(block)
        if number == 0:
            yield np.zeros((channels, size // 2), np.float32)
        for start in range(0, block.shape[1], 1 << 16):
            yield block[:, start : start + (1 << 16)]
    yield np.zeros((channels, size // 2), np.float32)


def _rows(size: int, rate: int, top_hz: float) -> np.ndarray:
    """[ROWS, bins]: how much of each bin a row takes. Sums, not means: else what is high is too dark to be seen."""
    edges = _hertz(np.linspace(0, _mel(top_hz), ROWS + 1)) * size / rate
    bins = np.arange(size // 2 + 1)
    high, low = np.minimum(edges[1:, None], bins + 0.5), np.maximum(edges[:-1, None], bins - 0.5)
    return np.maximum(high - low, 0)


def _mel(hertz: float) -> np.ndarray:
    """Source: O'Shaughnessy, "Speech communication: human and machine", 1987."""
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)
