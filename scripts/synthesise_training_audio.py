#!/usr/bin/env python3
"""Makes training audio with ordinary programs: speech with espeak-ng and flite, stems of songs with fluidsynth.

    python scripts/synthesise_training_audio.py DIR --sentences 200
    python scripts/synthesise_training_audio.py DIR --songs 20 --sound-font FluidR3_GM.sf2 \
        --sound-font-license "MIT (FluidR3_GM)" --sound-font-license-class permissive

DIR gets mono FLAC files and a manifest.json (docs/data.md). Texts and music are drawn at random from --seed; songs
have drums, bass and other instruments but no voices. On Debian the programs are in the packages espeak-ng, flite,
fluidsynth and fluid-soundfont-gm.
"""

import argparse
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ussfast import audio
from ussfast.data.manifest import LICENSE_CLASSES, SPLITS, Row, write_rows
from ussfast.errors import InputError, OutputError, UssfastError

# The sentences are made of these lists alone, so their text is nobody's.
WHO = "the baker|my neighbour|a tired driver|the young engineer|our teacher|an old sailor|the nurse|somebody upstairs"
DID = "carried|repaired|painted|forgot|borrowed|found|measured|described|opened|counted|sold|washed|missed|followed"
WHAT = "the blue kettle|seven letters|a broken ladder|the garden gate|two heavy boxes|her winter coat|the last train"
WHERE = "near the river|behind the station|in the quiet kitchen|across the square|under the bridge|on the third floor"
WHEN = "yesterday|before breakfast|at noon|late in the evening|twice a week|after the storm|without a word|last summer"

ESPEAK_VOICES = [f"{accent}+{kind}" for accent in ("en-us", "en-gb") for kind in ("m1", "m3", "m7", "f1", "f2", "f4")]
FLITE_VOICES = ["awb", "kal16", "rms", "slt"]
# The voice data of espeak-ng is part of a GPL program and sounds in its output; whether that binds the output is not
# settled, so the class is the careful one. Flite's voices come under Carnegie Mellon's terms: use, copies, changes and
# sale are free if its notice is kept.
LICENSES = {
    "espeak-ng": ("output of espeak-ng; program and voice data are GPL-3.0-or-later", "copyleft"),
    "flite": ("output of a CMU Flite voice; free to use, copy, modify and sell with the notice kept", "permissive"),
}
PACKAGES = {"espeak-ng": "espeak-ng", "flite": "flite", "fluidsynth": "fluidsynth"}

TICKS = 480  # per beat
DRUM_CHANNEL = 9
BASS_PROGRAMS = range(32, 40)  # General MIDI, from 0
OTHER_PROGRAMS = [0, 4, 5, 11, 16, 18, 24, 25, 26, 27, 29, 30, 48, 50, 56, 61, 65, 73, 80, 81, 88, 89]
PROGRESSIONS = [(0, 5, 7, 0), (0, 7, 9, 5), (9, 5, 0, 7), (2, 7, 0, 0), (0, 9, 5, 7), (0, 3, 5, 0)]
KICK, SNARE, HAT, OPEN_HAT, CRASH, TOM = 36, 38, 42, 46, 49, 45

Note = tuple[int, int, int, int, int]  # start and length in ticks, channel, key, velocity


def sentence(rng: random.Random) -> str:
    who, did, what, where, when = (rng.choice(part.split("|")) for part in (WHO, DID, WHAT, WHERE, WHEN))
    orders = (f"{who} {did} {what} {where} {when}", f"{when} {who} {did} {what}", f"{where} {who} {did} {what}")
    text = rng.choice(orders)
    return text[0].upper() + text[1:] + "."


def run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise OutputError(f"{program} failed: {lines[-1]}")


def need(program: str) -> str:
    if not shutil.which(program):
        raise InputError(f"{program} was not found on the PATH (Debian: apt-get install {PACKAGES[program]})")
    return program


def mono(path: Path) -> tuple[np.ndarray, int]:
    """The mean of the channels, float32 [frames], and the rate in Hz."""
    data, rate = audio.read(path)
    return data.mean(0), rate


def save(folder: Path, name: str, samples: np.ndarray, rate: int) -> Row:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with audio.AudioWriter(path, rate, 1, bit_depth=16) as writer:
        writer.write(np.clip(samples, -1, 1)[None])
    return {"path": name, "seconds": round(len(samples) / rate, 3), "sample_rate": rate, "real": False}


def speech(folder: Path, count: int, programs: list[str], split: str, rng: random.Random) -> Iterator[Row]:
    """`count` sentences, each by the next of all voices."""
    voices = [(program, voice) for program in programs for voice in (ESPEAK_VOICES, FLITE_VOICES)[program == "flite"]]
    rng.shuffle(voices)
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / "speech.wav"
        for number in tqdm(range(count), "speech", disable=None):
            program, voice = voices[number % len(voices)]
            text = " ".join(sentence(rng) for _ in range(rng.randint(1, 3)))
            if program == "flite":
                stretch = f"duration_stretch={rng.uniform(0.85, 1.2):.2f}"
                run(program, "-voice", voice, "--setf", stretch, "-t", text, "-o", str(made))
            else:
                speed, pitch = str(rng.randint(130, 200)), str(rng.randint(30, 70))
                run(program, "-v", voice, "-s", speed, "-p", pitch, "-w", str(made), text)
            license, license_class = LICENSES[program]
            row = save(folder, f"speech/{number:05d}.flac", *mono(made)) | {"prompt": "speech"}
            row |= {"speaker": f"{program} {voice}", "source": f"synthetic speech: {program} {voice}"}
            yield row | {"license": license, "license_class": license_class, "split": split}


def compose(rng: random.Random, seconds: float) -> tuple[int, dict[str, tuple[dict[int, int], list[Note]]]]:
    """(tempo in beats per minute, stem -> ({channel: program}, notes)) of a song in 4/4."""
    tempo, key, steps = rng.randint(70, 160), rng.randint(0, 11), rng.choice(PROGRESSIONS)
    minor = rng.random() < 0.4
    beat_s = 60 / tempo
    bars = max(1, int(seconds / (4 * beat_s)))
    kicks = sorted({0, *rng.sample(range(1, 16), rng.randint(1, 3))})
    hat_every, walking = rng.choice([1, 2, 2, 4]), rng.random() < 0.4
    parts = [(channel, rng.choice(OTHER_PROGRAMS), rng.choice(["chords", "arpeggio", "melody"])) for channel in (2, 3)]
    drums: list[Note] = []
    bass: list[Note] = []
    other: list[Note] = []
    sixteenth = TICKS // 4
    for bar in range(bars):
        start, root = bar * 4 * TICKS, key + steps[bar % len(steps)]
        third = 3 if minor or steps[bar % len(steps)] in (2, 9) else 4
        hits = [(step, KICK) for step in kicks] + [(4, SNARE), (12, SNARE)]
        hits += [(step, OPEN_HAT if rng.random() < 0.08 else HAT) for step in range(0, 16, hat_every)]
        hits += [(0, CRASH)] if bar % 8 == 0 else []
        hits += [(step, TOM - 2 * (step - 13)) for step in (13, 14, 15)] if bar % 4 == 3 else []
        drums += [(start + step * sixteenth, sixteenth, DRUM_CHANNEL, hit, rng.randint(70, 120)) for step, hit in hits]
        for step in range(0, 16, 4) if walking else kicks:
            pitch = 28 + (root + (rng.choice([0, third, 7]) if walking and step else 0)) % 12
            bass.append((start + step * sixteenth, 3 * sixteenth, 1, pitch, rng.randint(80, 115)))
        chord = [60 + (root + interval) % 12 for interval in (0, third, 7)]
        for channel, _, kind in parts:
            if rng.random() < 0.15:  # a rest, so that stems are not always all there
                continue
            if kind == "chords":
                other += [(start, 4 * TICKS - 40, channel, pitch, rng.randint(55, 90)) for pitch in chord]
                continue
            for step in range(0, 16, 2 if kind == "arpeggio" else rng.choice([2, 4])):
                pitch = chord[step // 2 % 3] if kind == "arpeggio" else 72 + (root + rng.choice([0, 2, third, 7])) % 12
                other.append((start + step * sixteenth, 2 * sixteenth, channel, pitch, rng.randint(60, 100)))
    return tempo, {
        "drums": ({}, drums),
        "bass": ({1: rng.choice(BASS_PROGRAMS)}, bass),
        "other": ({channel: program for channel, program, _ in parts}, other),
    }


def midi_file(tempo: int, programs: dict[int, int], notes: list[Note]) -> bytes:
    """A standard MIDI file of format 0."""
    events = [(0, bytes([0xC0 | channel, program])) for channel, program in sorted(programs.items())]
    for start, length, channel, key, velocity in notes:
        events.append((start, bytes([0x90 | channel, key, velocity])))
        events.append((start + length, bytes([0x80 | channel, key, 0])))
    # At one time, notes end before others begin: a repeated key would be cut off at once.
    events.sort(key=lambda event: (event[0], event[1][0] & 0xF0 == 0x90))
    track, now = b"\x00\xff\x51\x03" + struct.pack(">I", round(60e6 / tempo))[1:], 0
    for time, message in events:
        track += variable_length(time - now) + message
        now = time
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS) + b"MTrk" + struct.pack(">I", len(track)) + track


def variable_length(value: int) -> bytes:
    """Seven bits per byte, most significant first; all bytes but the last have the top bit set."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(0x80 | value & 0x7F)
    return bytes(reversed(out))


def songs(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """Stems of equal length, one file each."""
    font, seconds = options.sound_font, options.song_seconds
    with tempfile.TemporaryDirectory() as work:
        score, made = Path(work) / "stem.mid", Path(work) / "stem.wav"
        for number in tqdm(range(options.songs), "songs", disable=None):
            name = f"synth{options.seed}-{number:04d}"
            tempo, stems = compose(rng, seconds)
            names = {stem: f"music/{name}/{stem}.flac" for stem in stems}
            for stem, (programs, notes) in stems.items():
                score.write_bytes(midi_file(tempo, programs, notes))
                run("fluidsynth", "-ni", "-g", "0.5", "-r", str(options.rate), "-F", str(made), str(font), str(score))
                samples, rate = mono(made)
                whole = np.zeros(round(seconds * rate), np.float32)
                whole[: len(samples)] = samples[: len(whole)]
                row = save(folder, names[stem], whole, rate) | {"prompt": stem, "song": name, "bpm": tempo}
                row |= {"source": f"generated song {number} ({tempo} bpm), fluidsynth {font.name}"}
                row |= {"license": options.sound_font_license, "license_class": options.sound_font_license_class}
                row |= {"split": options.split, "aligned_with": [other for key, other in names.items() if key != stem]}
                yield row


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("folder", type=Path, metavar="DIR", help="new or empty")
    result.add_argument("--sentences", type=int, default=0, help="files of speech (1 to 3 sentences each)")
    result.add_argument("--programs", nargs="+", choices=list(LICENSES), default=list(LICENSES), help="for speech")
    result.add_argument("--songs", type=int, default=0)
    result.add_argument("--song-seconds", type=float, default=40.0)
    result.add_argument("--sound-font", type=Path, help="General MIDI, .sf2 or .sf3; needed for songs")
    result.add_argument("--sound-font-license", help="as its author states it; needed for songs")
    result.add_argument("--sound-font-license-class", choices=LICENSE_CLASSES, default="unknown")
    result.add_argument("--rate", type=int, default=32000, help="of songs, in Hz")
    result.add_argument("--split", choices=SPLITS, default="train")
    result.add_argument("--seed", type=int, default=0)
    return result


def check(options: argparse.Namespace) -> None:
    """Raises InputError for options that cannot work and programs that are missing, before anything is written."""
    if options.sentences < 0 or options.songs < 0 or not options.sentences + options.songs:
        raise InputError("give --sentences or --songs, above 0")
    if options.song_seconds < 1 or not 8000 <= options.rate <= 96000:
        raise InputError("need --song-seconds from 1 on and --rate from 8000 to 96000")
    if options.songs and not (options.sound_font and options.sound_font_license):
        raise InputError("songs need --sound-font (Debian: fluid-soundfont-gm) and --sound-font-license")
    if options.songs and not options.sound_font.is_file():
        raise InputError(f"{options.sound_font}: no such sound font (Debian: apt-get install fluid-soundfont-gm)")
    for program in [*(options.programs if options.sentences else []), *(["fluidsynth"] if options.songs else [])]:
        need(program)
    if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
        raise InputError(f"{options.folder}: is not an empty folder")


def main() -> int:
    options = parser().parse_args()
    try:
        check(options)
        options.folder.mkdir(parents=True, exist_ok=True)
        rng = random.Random(options.seed)
        rows = list(speech(options.folder, options.sentences, options.programs, options.split, rng))
        rows += songs(options.folder, options, random.Random(options.seed + 1))
        write_rows(options.folder / "manifest.json", rows)
    except UssfastError as error:
        print(f"synthesise_training_audio: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.folder / 'manifest.json'}: {len(rows)} items, {sum(r['seconds'] for r in rows) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
