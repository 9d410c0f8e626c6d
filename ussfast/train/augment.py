"""Changes of sound in batches on the audio's device: pitch, duration, colour, room and bandwidth.

Everything here is a pure function of rows of audio, float32 [rows, samples], and of one parameter per row. Parameters
are sequences on the host, so that no decision waits for the device; what is random is drawn by the caller.

Sources: Laroche and Dolson, "Improved phase vocoder time-scale modification of audio", IEEE Trans. Speech and Audio
Processing 7(3), 1999; Roebel, "A new approach to transient processing in the phase vocoder", DAFx 2003; Unser,
"Splines: a perfect fit for signal and image processing", IEEE Signal Processing Magazine 16(6), 1999; Schroeder,
"Natural sounding artificial reverberation", J. Audio Eng. Soc. 10(3), 1962.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ussfast.errors import InputError

Parameter = Sequence[float] | np.ndarray  # one per row, or one row of values per row

EQUALISER_BANDS = 6
ROLL_OFF = 0.05  # of a band edge: where a low-pass goes from one to zero, below the edge


def samples_needed(count: int, stretch: float, rate: int) -> int:
    """Input samples from which `change_speed` makes `count` output samples at durations of at least `stretch` times."""
    return math.ceil(count / stretch) + 2 * _hop(rate)


def change_speed(x: Tensor, pitch: Parameter, stretch: Parameter, rate: int, count: int) -> Tensor:
    """The first `count` samples of every row at `pitch` times its frequencies and `stretch` times its duration.

    A phase vocoder changes the duration by pitch * stretch, then resampling takes the factor `pitch` back and moves
    the frequencies. Rows with both factors exactly 1 come back untouched.

    Args:
        x: [rows, samples]; what lies beyond its end is silent, see `samples_needed`.
        pitch, stretch: positive factors, one per row.
        rate: Hz; sets the vocoder's window.
    Returns:
        [rows, count].
    Raises:
        InputError: a factor that is not positive.
    """
    pitch, stretch = _factors(pitch, "pitch"), _factors(stretch, "stretch")
    longest = math.ceil(count * max(1.0, pitch.max(initial=1.0))) + 8
    return resample_rows(stretch_rows(x, pitch * stretch, rate, longest), pitch, count)


def stretch_rows(x: Tensor, factor: Parameter, rate: int, count: int) -> Tensor:
    """The first `count` samples of every row at `factor` times its duration and the same pitch: a phase vocoder.

    Frames are put down at a constant hop and taken at hop / factor, each along with the frame one hop before it: how
    far that one's phase is from the frame taken last is how far the rest has to be turned, without unwrapping. All
    bins around a peak turn as it does; the turn starts anew where the energy jumps, so that onsets keep their shape.
    Rows with factor 1 come back untouched.
    """
    factor = _factors(factor, "stretch")
    moved = np.flatnonzero(factor != 1)
    out = _cut(x, count)
    if not len(moved):
        return out
    hop = _hop(rate)
    size = 3 * hop
    frames = -(-count // hop) + 3  # one before the start, so that every sample is under three windows
    centre = np.rint((np.arange(frames)[:, None] - 1) * hop / factor[moved]).astype(np.int64)
    front, back = 3 * size, max(0, int(centre.max()) + size - x.shape[1])
    source = pad(_rows(x, moved), (front, back)).unfold(-1, size, 1)
    window = torch.hann_window(size, device=x.device)
    start = torch.from_numpy(centre + front - size // 2).to(x.device)  # [frames, rows]
    rows = torch.arange(len(moved), device=x.device)
    here = torch.fft.rfft(source[rows, start] * window)
    before = torch.fft.rfft(source[rows, start[1:] - hop] * window)
    # Silence is not turned: what is added is far below the last bit of audio.
    turn = pad(here[:-1] * before.conj() + 1e-12, (0, 0, 0, 0, 1, 0), value=1.0)
    parts = torch.view_as_real(turn)
    parts *= parts.square().sum(-1, keepdim=True).rsqrt()
    for last, now in zip(turn[:-1], turn[1:], strict=True):
        now *= last
    # Where the energy jumps, all that was turned before is taken back.
    power = torch.view_as_real(here).square().sum(-1)
    energy = power.sum(-1)
    onset = pad(energy[1:] > 4 * energy[:-1], (0, 0, 1, 0), value=True)
    anew = torch.where(onset, torch.arange(frames, device=x.device)[:, None], 0).cummax(0).values
    turn *= turn[anew, rows].conj_physical_()
    # Bins turn as their nearest peak does: what belongs to one partial stays together.
    here *= turn.gather(-1, _nearest_peak(power))
    made = torch.fft.irfft(here, n=size) * (window / 1.125)  # squared Hann windows at a third add up to 1.125
    added = made.new_zeros(frames + 2, len(moved), hop)
    for part in range(3):
        added[part : part + frames] += made[..., part * hop : (part + 1) * hop]
    first = hop + size // 2
    return _replaced(out, moved, added.transpose(0, 1).flatten(1)[:, first : first + count])


def resample_rows(x: Tensor, ratio: Parameter, count: int | None = None) -> Tensor:
    """Every row played `ratio` times as fast, like a tape: output sample k is what was at k * ratio.

    Cubic splines through the signal at twice its rate, by gathering; band-limited first where it is played faster.
    Linear phase. Rows with ratio 1 come back untouched.

    Args:
        x: [rows, samples]; what lies beyond its end is silent.
        ratio: positive, one per row.
        count: samples per output row; as many as in the input by default.
    Raises:
        InputError: a ratio that is not positive.
    """
    ratio = _factors(ratio, "ratio")
    samples = x.shape[1]
    count = samples if count is None else count
    moved = np.flatnonzero(ratio != 1)
    out = _cut(x, count)
    if not len(moved):
        return out
    speed = torch.from_numpy(ratio[moved]).to(x.device)[:, None]
    size = _fast_size(samples + 64)
    spectrum = torch.fft.rfft(_rows(x, moved), n=size)
    bins = torch.linspace(0, 1, spectrum.shape[1], device=x.device)
    # The splines' own response at twice the rate is divided out, so that they pass through the samples.
    shape = 6 / (2 + torch.cos(math.pi / 2 * bins))
    spectrum = spectrum * (_low_pass(bins, (1 / speed).clamp(max=1).float()) * shape)
    twice = pad(torch.fft.irfft(spectrum, n=2 * size), (1, 3), mode="circular")
    # Float32 cannot tell places within a second of audio finely enough.
    place = 2 * speed * torch.arange(count, device=x.device, dtype=torch.float64)
    inside = place < 2 * samples
    place = place.clamp(max=2 * samples)
    index = place.long()
    u = (place - index).float()
    v = 1 - u
    taps = (v * v * v, 4 - 3 * u * u * (1 + v), 4 - 3 * v * v * (1 + u), u * u * u)
    made = sum(tap * twice[:, k:].gather(1, index) for k, tap in enumerate(taps)) / 6
    return _replaced(out, moved, made * inside)


def equaliser_bands(rate: int) -> np.ndarray:
    """The frequencies in Hz at which `equalise` takes gains, evenly on a logarithmic scale: [EQUALISER_BANDS]."""
    return np.geomspace(60, 0.4 * rate, EQUALISER_BANDS)


def equalise(x: Tensor, gains_db: Parameter, rate: int) -> Tensor:
    """A smooth, zero-phase change of colour.

    Args:
        x: [rows, samples].
        gains_db: [rows, EQUALISER_BANDS], gains at `equaliser_bands`; constant beyond the first and the last.
        rate: Hz.
    """
    gains = torch.as_tensor(np.asarray(gains_db, np.float32), device=x.device)
    bands = np.log(equaliser_bands(rate))
    size = _fast_size(x.shape[1] + rate // 20)  # silence after the end, into which the response may run
    hertz = np.arange(size // 2 + 1) * (rate / size)
    place = (np.log(np.maximum(hertz, 1.0)) - bands[0]) / (bands[1] - bands[0])
    apart = np.abs(np.clip(place, 0, EQUALISER_BANDS - 1) - np.arange(EQUALISER_BANDS)[:, None]).clip(max=1)
    between = torch.from_numpy(np.cos(math.pi / 2 * apart).astype(np.float32) ** 2).to(x.device)
    factor = torch.exp(gains @ between * (math.log(10) / 20))
    return torch.fft.irfft(torch.fft.rfft(x, n=size) * factor, n=size)[:, : x.shape[1]]


def reverberate(x: Tensor, t60: Parameter, wet_db: Parameter, rate: int, noise: Tensor) -> Tensor:
    """Every row in a room: itself, undelayed, plus itself through decaying noise, cut to the input's length.

    Echoes are few at first and their number per second grows with the square of time, until after 40 ms every sample
    has one.

    Args:
        x: [rows, samples].
        t60: seconds in which the room's response falls by 60 dB.
        wet_db: energy of the echoes over that of the direct path.
        rate: Hz.
        noise: white Gaussian noise [rows, taps], unit variance, from which the responses are made; sets their length.
    Raises:
        InputError: a t60 that is not positive.
    """
    if noise.shape[0] != x.shape[0]:
        raise InputError(f"need noise for {x.shape[0]} rows, got {noise.shape[0]}")
    decay = torch.from_numpy(_factors(t60, "t60").astype(np.float32)).to(x.device)[:, None]
    wet = torch.as_tensor(np.asarray(wet_db, np.float32), device=x.device)[:, None]
    time = np.arange(1, noise.shape[1] + 1) / rate
    # The share of samples with the largest noise are echoes; dividing by what they keep of its energy keeps the decay
    # exponential from the start.
    share = np.clip((time / 0.04) ** 2, 0.01, 1)
    least = math.sqrt(2) * torch.erfinv(torch.from_numpy(1 - share))
    kept = torch.from_numpy(share) + least * math.sqrt(2 / math.pi) * torch.exp(-least.square() / 2)
    least, scale = least.float().to(x.device), kept.rsqrt().float().to(x.device)
    seconds = torch.from_numpy(time.astype(np.float32)).to(x.device)
    room = noise * (noise.abs() >= least) * scale * torch.exp(-math.log(1000) * seconds / decay)
    room = room * (10 ** (wet / 20) / room.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-9))
    size = _fast_size(x.shape[1] + noise.shape[1] + 1)
    echoes = torch.fft.irfft(torch.fft.rfft(x, n=size) * torch.fft.rfft(pad(room, (1, 0)), n=size), n=size)
    return x + echoes[:, : x.shape[1]]


def band_limit(x: Tensor, edge: Parameter) -> Tensor:
    """Every row without what is above `edge`, a share of its band; below the edge it falls as a raised cosine.

    Zero phase and circular, so that nothing is left above the edge. Rows with an edge of 1 pass up to rounding.
    """
    edges = torch.from_numpy(_factors(edge, "band edge").astype(np.float32)).to(x.device)[:, None]
    spectrum = torch.fft.rfft(x)
    bins = torch.linspace(0, 1, spectrum.shape[-1], device=x.device)
    return torch.fft.irfft(spectrum * _low_pass(bins, edges), n=x.shape[-1])


def _low_pass(bins: Tensor, edge: Tensor) -> Tensor:
    """Gains [rows, bins]: 1 up to (1 - ROLL_OFF) * edge, 0 from the edge on; all 1 for an edge of 1."""
    fall = ((bins / edge - (1 - ROLL_OFF)) / ROLL_OFF).clamp(0, 1)
    return torch.where(edge < 1, 0.5 + 0.5 * torch.cos(math.pi * fall), 1.0)


def _nearest_peak(power: Tensor) -> Tensor:
    """For every bin of [..., bins] the nearest one that none of the two bins on either side exceeds."""
    bins = power.shape[-1]
    highest = torch.nn.functional.max_pool1d(power, 5, 1, 2)
    number = torch.arange(bins, device=power.device, dtype=torch.int32)
    peak = power >= highest
    below = torch.where(peak, number, -bins).cummax(-1).values
    above = torch.where(peak, number, 2 * bins).flip(-1).cummin(-1).values.flip(-1)
    return torch.where(number - below <= above - number, below, above).long()


def _hop(rate: int) -> int:
    """The vocoder's hop in samples, 20 ms; its windows of three hops hold the partials of low voices apart."""
    return max(4, rate // 50)


def _fast_size(least: int) -> int:
    """The next length from `least` on whose Fourier transform is quick: even, of small primes."""
    return min(odd << max(1, math.ceil(math.log2(least / odd))) for odd in (1, 3, 5, 9, 15))


def _factors(values: Parameter, name: str) -> np.ndarray:
    found = np.asarray(values, np.float64)
    if not (np.isfinite(found) & (found > 0)).all():
        raise InputError(f"every {name} must be positive, got {found.tolist()}")
    return found


def _rows(x: Tensor, rows: np.ndarray) -> Tensor:
    return x if len(rows) == len(x) else x[torch.from_numpy(rows).to(x.device)]


def _cut(x: Tensor, count: int) -> Tensor:
    """The first `count` samples, silence where there are fewer; may be a view of x."""
    return x[:, :count] if count <= x.shape[1] else pad(x, (0, count - x.shape[1]))


def _replaced(x: Tensor, rows: np.ndarray, made: Tensor) -> Tensor:
    """x with `made` in place of `rows`; x itself stays as it is."""
    if len(rows) == len(x):
        return made
    return x.index_copy(0, torch.from_numpy(rows).to(x.device), made)
