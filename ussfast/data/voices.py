"""Voices made of recorded voices: other pitch, melody and formants, and full-band ones of those that end early.

A model that has heard a hundred speakers takes a voice unlike theirs for something else; and one whose consonants all
hiss up to the end of the band takes those that end before for other sounds. Sources: Morise, Yokomori and
Ozawa, "WORLD: a vocoder-based high-quality speech synthesis system for real-time applications", IEICE Transactions
E99-D(7), 2016 (analysis and synthesis); Makhoul, "Linear prediction: a tutorial review", Proc. IEEE 63(4), 1975 (an
envelope of resonances); Jaitly and Hinton, "Vocal tract length perturbation (VTLP) improves speech
recognition", ICML workshop, 2013 (formants of training data).
"""

import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile
import soxr

from ussfast.audio import read
from ussfast.audio.atomic import atomic_write
from ussfast.data.manifest import Row, moved, placed, read_rows, write_rows
from ussfast.errors import InputError, OutputError
from ussfast.separation import make_folders

FULL_RATE = 32000  # of full-band voices
BLEND = 0.1  # of a band: where copies from the octave below come in before its end
LEAST = 1e-16  # power
BASS_HZ = 350.0
VOWEL_HZ, HISS_HZ = (100.0, 3000.0), (3500.0, 7500.0)  # bands that tell vowels and hissing consonants apart
HISS_FRAMES = 5  # of 5 ms: shorter stretches are none
WALL_DB, WALL_HZ = 80.0, 200.0  # how a band ends
NOISE_PERCENT, NOISE_FACTOR, NOISE_DB = 10, 3.0, 40.0  # so many frames are noise alone; what is taken off, and most
PEAK_OCTAVES = 0.15  # half width


@dataclass(frozen=True)
class Hiss:
    """Noise of a consonant: as loud from `low_hz` to `high_hz` as the recorded one in HISS_HZ and `gain_db` more, and
    less by `rise_db` per octave below and `drop_db` above."""

    low_hz: float
    high_hz: float
    rise_db: float
    drop_db: float
    gain_db: float = 0.0


@dataclass(frozen=True)
class Voice:
    """How a copy of a speaker differs.

    pitch: the mean, in Hz. melody: factor on the range of the pitch, in octaves. formants: factor on the
    frequencies of the envelope. full_band: what is above the recording's band becomes a copy of the octave below it,
    `fall_db` quieter and `breath` times as noisy (0: a buzz). bass_db: what is added at 0 Hz, less and less up to
    BASS_HZ. The rest is for full-band voices. hiss: what the hissing consonants become, in turn; none: they stay.
    peaks: (Hz, dB) of resonances added to the copied octave. poles: the envelope is that of so many, 0: as it is; few
    make the sound of a formant synthesiser. end_hz: nothing is above that, as in files of lower rates; 0: as far as
    the rate allows. dry: without the noise of the recording, as synthesisers sound.
    """

    pitch: float
    melody: float
    formants: float
    full_band: bool
    fall_db: float
    breath: float
    bass_db: float
    hiss: tuple[Hiss, ...] = ()
    peaks: tuple[tuple[float, float], ...] = ()
    poles: int = 0
    end_hz: float = 0.0
    dry: bool = False


def draw_voice(rng: np.random.Generator, full_band: float) -> Voice:
    """full_band: share of the voices that are."""
    voice = Voice(
        pitch=_log_uniform(rng, 60, 320),
        melody=float(rng.choice([0.1, 0.4, 1.0, 1.3], p=[0.2, 0.25, 0.35, 0.2])),
        formants=2 ** rng.uniform(-0.25, 0.25),
        full_band=bool(rng.random() < full_band),
        fall_db=rng.uniform(-6.0, 15.0),
        breath=rng.uniform(0.3, 1.5),
        bass_db=rng.uniform(-3.0, 9.0),
    )
    return _draw_upper_band(rng, voice) if voice.full_band else voice


def _draw_upper_band(rng: np.random.Generator, voice: Voice) -> Voice:
    """The same voice with an upper band of its own. Each property is as usual in a good part of the voices."""

    def hit(share: float) -> bool:
        return bool(rng.random() < share)

    return replace(
        voice,
        fall_db=rng.uniform(15.0, 40.0) if hit(0.3) else voice.fall_db,
        breath=0.0 if hit(0.2) else voice.breath,
        hiss=tuple(_draw_hiss(rng) for _ in range(rng.integers(1, 5))) if hit(0.6) else (),
        peaks=tuple((_log_uniform(rng, 7000, 15000), rng.uniform(-12, 12)) for _ in range(3)) if hit(0.5) else (),
        poles=int(rng.integers(12, 31)) if hit(0.3) else 0,
        end_hz=11025 * 0.98 if hit(0.2) else rng.uniform(9500, 15500) if hit(0.15) else 0.0,
        dry=hit(0.4),
    )


def _draw_hiss(rng: np.random.Generator) -> Hiss:
    low = _log_uniform(rng, 1800, 6500)
    return Hiss(
        low_hz=low, high_hz=_log_uniform(rng, *((8000, 13500) if rng.random() < 0.7 else (1.3 * low, 2.5 * low))),
        rise_db=_log_uniform(rng, 12, 60), drop_db=_log_uniform(rng, 20, 500), gain_db=rng.uniform(-4.0, 8.0),
    )  # fmt: skip


def change_voice(audio: np.ndarray, rate: int, voice: Voice) -> tuple[np.ndarray, int] | None:
    """The same words by another voice, at the peak of the recording.

    Args:
        audio: float [samples], speech of one person.
        rate: Hz.
    Returns:
        audio float32 [samples] and its rate, FULL_RATE for full-band voices of lower rates; None where no pitch is
        found.
    Raises:
        InputError: the package pyworld is missing.
    """
    world = _world()
    x, edge = np.ascontiguousarray(audio, np.float64), rate / 2
    wide = voice.full_band
    if wide and rate < FULL_RATE:
        x, rate = np.ascontiguousarray(soxr.resample(x, rate, FULL_RATE)), FULL_RATE
    pitch, time = world.dio(x, rate)
    pitch = world.stonemask(x, pitch, time, rate)
    voiced = pitch > 0
    if voiced.sum() < 20:
        return None
    power = world.cheaptrick(x, pitch, time, rate)
    if wide and voice.dry:
        off = NOISE_FACTOR * np.percentile(power, NOISE_PERCENT, axis=0)
        power = np.maximum(power - off, power * np.exp(-_log(NOISE_DB)))
    envelope = np.log(power + LEAST)
    noise = world.d4c(x, pitch, time, rate)
    hz = np.linspace(0, rate / 2, envelope.shape[1])
    if wide:
        hissing, level = _hissing(envelope, hz)
    if edge < rate / 2:
        below = np.arange(len(hz)) // 2
        share = np.clip((hz / edge - 1 + BLEND) / BLEND, 0, 1)
        envelope = (1 - share) * envelope + share * (envelope[:, below] - _log(voice.fall_db))
        noise = (1 - share) * noise + share * noise[:, below] * voice.breath
        for peak_hz, peak_db in voice.peaks:
            away = np.log2(np.maximum(hz, 1) / peak_hz) / PEAK_OCTAVES
            envelope = envelope + share * _log(peak_db) * np.exp(-(away**2) / 2)
    envelope = envelope + _log(voice.bass_db) * np.clip(1 - hz / BASS_HZ, 0, 1)
    middle = np.log(pitch[voiced]).mean()
    pitch[voiced] = np.exp((np.log(pitch[voiced]) - middle) * voice.melody) * voice.pitch
    pitch[voiced] = pitch[voiced].clip(50, 700)
    envelope, noise = _warped(envelope, voice.formants), _warped(noise, voice.formants).clip(0.001, 1)
    if wide and voice.poles:
        envelope = np.log(resonances(np.exp(envelope), voice.poles))
    if wide and voice.hiss:
        stretch = np.cumsum(np.diff(hissing, prepend=False) & hissing)
        for number, hiss in enumerate(voice.hiss):
            own = hissing & (stretch % len(voice.hiss) == number)
            envelope[own] = level[own, None] + _log(1.0) * _colour(hiss, hz)
        pitch[hissing] = 0
    if wide and voice.end_hz:
        envelope = envelope - _log(WALL_DB) * np.clip((hz - voice.end_hz) / WALL_HZ, 0, 1)
    out = world.synthesize(pitch, np.exp(envelope), noise, rate)
    peak = np.abs(x).max() / max(float(np.abs(out).max()), 1e-9)
    return (out * min(peak, 1 / max(float(np.abs(out).max()), 1e-9))).astype(np.float32), rate


def make_voices(
    source: Path, output: Path, share: float = 1.0, full_band: float = 0.5, seed: int = 0,
    each: Callable[[Iterator[Row]], Iterator[Row]] = iter,
) -> tuple[int, int]:  # fmt: skip
    """Copies a share of a manifest's recorded training speech into the folder `output`, all of a speaker by one new
    voice, with a manifest of everything: what there was stays where it is.

    Args:
        full_band: share of the speakers whose copy is full-band.
        each: wraps the rows, to show how far it is.
    Returns:
        (copies, items in the manifest).
    Raises:
        InputError: no manifest, a share outside 0..1, a file that cannot be read, the package pyworld is missing.
        OutputError: `output` is there and not empty, or cannot be written.
    """
    if not (0 <= share <= 1 and 0 <= full_band <= 1):
        raise InputError(f"share and full_band must be between 0 and 1, got {share} and {full_band}")
    _world()
    rows = read_rows(source)
    output = Path(os.path.abspath(output))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} is there already: give a folder to make")
    make_folders([output / "voices" / "000000.flac"])
    done, copies = [], 0
    for number, row in enumerate(each(iter(rows))):
        done.append(moved(row, source.parent, output))
        # What becomes of a file depends on its and its speaker's name alone, not on what else is in the manifest.
        chosen = np.random.default_rng((seed, zlib.crc32(str(row["path"]).encode()))).random() < share
        if row["split"] == "train" and row["prompt"] == "speech" and row.get("real", True) and chosen:
            if (copy := _copied(row, source.parent, output, number, full_band, seed)) is not None:
                done.append(copy)
                copies += 1
    write_rows(output / "manifest.json", done)
    return copies, len(done)


def _copied(row: Row, folder: Path, output: Path, number: int, full_band: float, seed: int) -> Row | None:
    who = str(row.get("speaker") or row["path"])
    voice = draw_voice(np.random.default_rng((seed, zlib.crc32(who.encode()))), full_band)
    audio, rate = read(folder / row["path"])
    made = change_voice(audio[0], rate, voice)
    if made is None:
        return None
    target = output / "voices" / f"{number:06d}.flac"
    with atomic_write(target) as temporary:
        soundfile.write(temporary, made[0], made[1], format="FLAC")
    about = f"{row.get('source', row['path'])} (voice changed)"
    copy = {key: value for key, value in row.items() if key not in ("peak", "active_rms_db", "group")}
    return copy | {
        "path": placed(target, output), "source": about, "real": False, "speaker": f"{who} changed",
        "seconds": len(made[0]) / made[1], "sample_rate": made[1],
    }  # fmt: skip


def resonances(power: np.ndarray, poles: int) -> np.ndarray:
    """Power spectra [frames, bins] from 0 Hz to half the rate, each as smooth as linear prediction of that order is."""
    likeness = np.fft.irfft(power)[:, : poles + 1]
    likeness[:, 0] *= 1 + 1e-6  # so that silence has a solution too
    places = np.abs(np.subtract.outer(np.arange(poles), np.arange(poles)))
    weights = np.linalg.solve(likeness[:, places], -likeness[:, 1:, None])[..., 0]
    gain = likeness[:, 0] + (weights * likeness[:, 1:]).sum(1)
    filters = np.concatenate([np.ones((len(weights), 1)), weights], 1)
    spectra: np.ndarray = gain[:, None] / np.abs(np.fft.rfft(filters, 2 * (power.shape[1] - 1))) ** 2
    return spectra


def _hissing(envelope: np.ndarray, hz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of log powers [frames, bins]: where consonants hiss, bool [frames], and how loud in HISS_HZ, log [frames]."""
    low, high = (np.exp(envelope[:, (hz > a) & (hz < b)]).mean(1) for a, b in (VOWEL_HZ, HISS_HZ))
    votes = np.convolve(high > low / 2, np.ones(HISS_FRAMES), "same")
    return votes > HISS_FRAMES / 2, np.log(high)


def _colour(hiss: Hiss, hz: np.ndarray) -> np.ndarray:
    """In dB."""
    octave, low, high = (np.log2(np.maximum(x, 20.0)) for x in (hz, hiss.low_hz, hiss.high_hz))
    fall = hiss.rise_db * np.maximum(low - octave, 0) + hiss.drop_db * np.maximum(octave - high, 0)
    return hiss.gain_db - np.minimum(fall, WALL_DB)


def _log_uniform(rng: np.random.Generator, least: float, most: float) -> float:
    return float(np.exp(rng.uniform(np.log(least), np.log(most))))


def _warped(rows: np.ndarray, factor: float) -> np.ndarray:
    """[frames, bins] with what was at a frequency moved to `factor` times that."""
    place = (np.arange(rows.shape[1]) / factor).clip(max=rows.shape[1] - 1)
    low = place.astype(int)
    high, part = np.minimum(low + 1, rows.shape[1] - 1), place - low
    return np.ascontiguousarray((1 - part) * rows[:, low] + part * rows[:, high])


def _log(db: float) -> float:
    """Of a power."""
    return db * np.log(10) / 10


def _world() -> ModuleType:
    try:
        with warnings.catch_warnings():  # it imports pkg_resources, which says to everybody that it is old
            warnings.simplefilter("ignore")
            import pyworld
    except ImportError:
        raise InputError("changed voices need the package pyworld: pip install 'ussfast[voices]'") from None
    return pyworld
