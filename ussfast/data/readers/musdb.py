"""MUSDB18-HQ (WAV files) and MUSDB18 (.stem.mp4, whose tracks ffmpeg extracts into FLAC files)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from ussfast.data.readers._base import Clip, Problem, Reader
from ussfast.errors import InputError, OutputError

STEMS = ("drums", "bass", "other", "vocals")  # the order of the tracks in .stem.mp4, after the mixture
LICENSE = (
    "MUSDB18: for educational purposes only, no commercial use without permission of the copyright holders; "
    "the songs from MedleyDB are CC BY-NC-SA 4.0"
)
# The songs of `train` that are customarily held out for validation, so that results compare.
VALIDATION = {
    "ANiMAL - Rockshow", "Actions - One Minute Smile", "Alexander Ross - Goodbye Bolero",
    "Clara Berry And Wooldog - Waltz For My Victims", "Fergessen - Nos Palpitants", "James May - On The Line",
    "Johnny Lokke - Promises & Lies", "Leaf - Summerghost", "Meaxic - Take A Step",
    "Patrick Talbot - A Reason To Leave", "Skelpolu - Human Mistakes", "Traffic Experiment - Sirens",
    "Triviul - Angelsaint", "Young Griffo - Pennies",
}  # fmt: skip


def find_hq(folder: Path, work: Path) -> Iterator[Clip | Problem]:
    for part in ("train", "test"):
        for song in sorted(folder.glob(f"{part}/*/")):
            paths = {stem: song / f"{stem}.wav" for stem in STEMS}
            if any(path.is_file() for path in paths.values()):
                yield from _clips("MUSDB18-HQ", part, song.name, paths)


def find_mp4(folder: Path, work: Path) -> Iterator[Clip | Problem]:
    files = [(part, file) for part in ("train", "test") for file in sorted(folder.glob(f"{part}/*.stem.mp4"))]
    if files and not shutil.which("ffmpeg"):
        raise InputError(
            f"{folder}: .stem.mp4 files need ffmpeg on the PATH (Debian: apt-get install ffmpeg), which was not found; "
            "MUSDB18-HQ needs none"
        )
    for part, file in tqdm(files, "extracting", disable=None):
        name = file.name.removesuffix(".stem.mp4")
        paths = {stem: work / part / name / f"{stem}.flac" for stem in STEMS}
        # What an earlier run extracted is kept.
        problem = None if all(path.is_file() for path in paths.values()) else _extract(file, paths)
        if problem:
            yield problem
        else:
            yield from _clips("MUSDB18", part, name, paths)


def _extract(file: Path, paths: dict[str, Path]) -> Problem | None:
    """Writes the tracks of one song; its files appear together or not at all."""
    final = next(iter(paths.values())).parent
    fresh = final.with_name(f".{final.name}.new")
    command = ["ffmpeg", "-nostdin", "-y", "-v", "error", "-protocol_whitelist", "file", "-i", str(file.absolute())]
    for number, path in enumerate(paths.values(), start=1):
        output = str((fresh / path.name).absolute())
        command += ["-map", f"0:a:{number}", "-c:a", "flac", "-sample_fmt", "s16", "-f", "flac", output]
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            return Problem(file, f"ffmpeg: {lines[-1].strip()}")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(fresh, final)
    except OSError as error:
        raise OutputError(f"{final}: could not be written: {error.strerror}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return None


def _clips(title: str, part: str, song: str, paths: dict[str, Path]) -> Iterator[Clip]:
    split = "test" if part == "test" else "dev" if song in VALIDATION else "train"
    for stem, path in paths.items():
        others = tuple(other for other in paths.values() if other != path)
        yield Clip(
            path, stem, split, f"{title}: {song}", LICENSE, "noncommercial", song=f"musdb18 {song}", aligned=others
        )


HQ = Reader(
    "musdb18hq", "MUSDB18-HQ", "train/SONG/ and test/SONG/ with drums.wav, bass.wav, other.wav and vocals.wav", find_hq
)
MP4 = Reader("musdb18", "MUSDB18", "train/SONG.stem.mp4 and test/SONG.stem.mp4", find_mp4)
