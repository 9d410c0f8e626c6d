"""Two conditions that means over tasks hide: voices above 8 kHz, and a quiet passage behind a loud one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ussfast.data.pool import AudioPool
from ussfast.evaluate.dev import DevMixture, Draw, amplitude, dev_mixtures
from ussfast.evaluate.metrics import audible, best_order, level_db, si_sdr
from ussfast.separator import Separator

EDGE_HZ = 8000.0
# A signal has a band if at least this much of its energy is there: what resampling leaves of audio that ends at the
# edge is some -77 dB.
FLOOR_DB = -40.0
LOUD_SECONDS, LOUD_DB = 3.0, 26.0


@dataclass(frozen=True)
class HighBand:
    """One full-band voice above EDGE_HZ, in dB; `fit` says how.

    alone_db: its level in the speech stem where nothing else sounds, relative to the voice. voice_db: the same with a
    background. background_db: level in that stem of the background, relative to the background. other_db: level of
    everything in the band that is not the voice (the background, and what became of it), relative to the background.
    """

    mixture: int
    alone_db: float
    voice_db: float
    background_db: float
    other_db: float


@dataclass(frozen=True)
class AfterLoud:
    """SI-SDR improvement in dB of one source of a quiet mixture, and the same right behind a loud one."""

    mixture: int
    prompt: str
    quiet_db: float
    after_loud_db: float


def above(signal: np.ndarray, rate: int, edge_hz: float = EDGE_HZ) -> np.ndarray:
    """What a signal [..., samples] has above the edge, without delay; float64."""
    spectrum = np.fft.rfft(signal)
    spectrum[..., np.fft.rfftfreq(signal.shape[-1], 1 / rate) < edge_hz] = 0
    return np.fft.irfft(spectrum, signal.shape[-1])


def has_band(signal: np.ndarray, rate: int) -> bool:
    """Whether at least FLOOR_DB of a signal's energy is above EDGE_HZ."""
    return bool(signal.any()) and level_db(above(signal, rate), signal) >= FLOOR_DB


def fit(estimate: np.ndarray, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One gain per source such that their sum comes closest to the estimate (least squares), and what is left.

    Args:
        estimate: [samples]; sources: [sources, samples].
    Returns:
        gains [sources], rest [samples].
    """
    gains = np.linalg.lstsq(sources.T, estimate, rcond=None)[0]
    return gains, estimate - gains @ sources


def high_band_mixtures(pool: AudioPool, count: int, seconds: float, seed: int) -> Iterator[DevMixture]:
    """Up to `count` mixtures of a full-band voice and a background above EDGE_HZ too, levels as in speech_enhancement.

    None at all where the pool's rate has no such band, or no voice or no background has something in it.
    """
    draw = Draw(pool, round(seconds * pool.rate))
    for prompt in ("speech", "sfxbg"):
        whole = [(i, pool.crops(np.array([i]), np.array([0]), int(pool.length[i]))[0].cpu().numpy())
                 for i in draw.items[prompt]]  # fmt: skip
        draw.items[prompt] = [i for i, samples in whole if has_band(samples, pool.rate)]
        if not draw.items[prompt]:
            return
    for number in range(count):
        draw.rng = np.random.default_rng((seed, 200, number))
        (speech, first), (background, second) = draw.pick("speech"), draw.pick("sfxbg")
        sources = np.stack([speech, background * amplitude(draw.rng.uniform(-10, 5))])
        sources = (sources * min(1.0, 0.95 / max(1e-9, float(np.abs(sources.sum(0)).max())))).astype(np.float32)
        if all(has_band(source, pool.rate) for source in sources):  # the crop may lack what the whole item has
            yield DevMixture("high_band", sources.sum(0), sources, ("speech", "sfxbg"), (first, second))


def high_band(separator: Separator, mixtures: Iterator[DevMixture]) -> Iterator[HighBand]:
    """Measures the band above EDGE_HZ of the speech stems."""
    rate = separator.sample_rate
    for number, item in enumerate(mixtures):
        voice, background = sources = above(item.references, rate)
        alone = above(_stems(separator, item.references[0], item.prompts)[0], rate)
        mixed = above(_stems(separator, item.mixture, item.prompts)[0], rate)
        (kept,), _ = fit(alone, sources[:1])
        (of_voice, of_background), _ = fit(mixed, sources)
        yield HighBand(
            number, _decibels(kept), _decibels(of_voice), _decibels(of_background),
            level_db(mixed - of_voice * voice, background),
        )  # fmt: skip


def loud_mixtures(pool: AudioPool, count: int, seconds: float, seed: int) -> Iterator[tuple[np.ndarray, DevMixture]]:
    """Pairs of a loud passage [samples] and the mixture that follows it, whose RMS is LOUD_DB below.

    The mixtures are those of speech_enhancement, turned down; the passage before each is the end of the next one.
    """
    made = list(islice(dev_mixtures(pool, count + 1, seconds, seed), count + 1))
    for item, other in zip(made, made[1:], strict=False):
        passage = other.mixture[-round(LOUD_SECONDS * pool.rate) :]
        loud = passage * (0.95 / max(1e-9, float(np.abs(passage).max())))
        level = np.sqrt(np.mean(np.square(loud, dtype=np.float64)) / np.mean(np.square(item.mixture, dtype=np.float64)))
        references = (item.references * (level * amplitude(-LOUD_DB))).astype(np.float32)
        yield loud, DevMixture(item.task, references.sum(0), references, item.prompts, item.items)


def after_loud(separator: Separator, pairs: Iterator[tuple[np.ndarray, DevMixture]]) -> Iterator[AfterLoud]:
    """Measures the sources of each quiet mixture, by itself and behind the loud passage."""
    for number, (loud, item) in enumerate(pairs):
        both = _stems(separator, np.concatenate([loud, item.mixture]), item.prompts)[:, len(loud) :]
        figures = []
        for stems in (_stems(separator, item.mixture, item.prompts), both):
            order = best_order(stems, item.references, item.prompts)
            figures.append([si_sdr(stems[j], source) for j, source in zip(order, item.references, strict=True)])
        for prompt, source, quiet, behind in zip(item.prompts, item.references, *figures, strict=True):
            if audible(source, -60 - LOUD_DB):
                before = si_sdr(item.mixture, source)
                yield AfterLoud(number, prompt, quiet - before, behind - before)


def _stems(separator: Separator, audio: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """Estimates [prompts, samples]."""
    return separator.separate(audio, separator.sample_rate, prompts=prompts).stems[:, 0]


def _decibels(factor: float) -> float:
    """Of a gain, whose sign does not matter, limited to +-100 dB."""
    return float(np.clip(20 * np.log10(max(abs(factor), 1e-20)), -100.0, 100.0))
