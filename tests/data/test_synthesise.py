"""The script that makes training audio, with stand-ins for the programs that it calls."""

import importlib.util
import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from ussfast.data.manifest import read_rows
from ussfast.data.pool import read_manifest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/synthesise_training_audio.py"

# Notes its arguments, and writes a second of a tone to the file named after the option that the program has for it.
STAND_IN = """#!{python}
import sys, json, math, struct, wave
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps([{name!r}, *arguments]) + "\\n")
if "{name}" == "fluidsynth":
    data = open(arguments[-1], "rb").read()
    assert data[:4] == b"MThd" and data[14:18] == b"MTrk", data[:20]
if {fails}:
    print("the voice is hoarse", file=sys.stderr)
    sys.exit(3)
channels = 2 if "{name}" == "fluidsynth" else 1
rate = int(arguments[arguments.index("-r") + 1]) if channels == 2 else 16000
with wave.open(arguments[arguments.index({option!r}) + 1], "wb") as file:
    file.setnchannels(channels), file.setsampwidth(2), file.setframerate(rate)
    file.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(i / 5))) * channels for i in range(rate)))
"""


@pytest.fixture
def tools(tmp_path):
    folder = tmp_path / "tools"
    folder.mkdir()

    def make(fails=(), names=("espeak-ng", "flite", "fluidsynth")):
        for name, option in (("espeak-ng", "-w"), ("flite", "-o"), ("fluidsynth", "-F")):
            if name in names:
                facts = {"python": sys.executable, "log": str(folder / "log"), "name": name, "option": option}
                (folder / name).write_text(STAND_IN.format(**facts, fails=name in fails))
                (folder / name).chmod(0o755)
        return folder

    return make


def run(tools, *arguments):
    environment = {"PATH": str(tools), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=120)


def module():
    spec = importlib.util.spec_from_file_location("synthesise", SCRIPT)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def font_of(folder):
    (folder / "font.sf2").write_bytes(b"RIFF")
    return ("--sound-font", folder / "font.sf2", "--sound-font-license", "MIT (font)")


def test_speech_and_songs(tools, tmp_path):
    folder = tools()
    songs = ("--songs", 2, "--song-seconds", 4, "--rate", 8000, *font_of(tmp_path), "--sound-font-license-class")
    done = run(folder, tmp_path / "out", "--sentences", 16, *songs, "permissive", "--split", "dev")
    assert (done.returncode, done.stderr) == (0, "") and "22 items" in done.stdout
    rows = read_rows(tmp_path / "out/manifest.json")
    assert len(read_manifest(tmp_path / "out/manifest.json")) == len(rows) == 22
    for row in rows:
        info = soundfile.info(tmp_path / "out" / row["path"])
        assert (info.channels, info.samplerate) == (1, row["sample_rate"]) and row["split"] == "dev"
        assert info.duration == pytest.approx(row["seconds"]) and row["real"] is False
    speech = [row for row in rows if row["prompt"] == "speech"]
    assert len({row["speaker"] for row in speech}) == 16  # all voices take turns
    for row in speech:
        expected = "copyleft" if row["speaker"].startswith("espeak-ng") else "permissive"
        assert row["license_class"] == expected and row["license"]
    stems = [row for row in rows if "song" in row]
    assert [row["prompt"] for row in stems] == ["drums", "bass", "other"] * 2
    assert {(r["license"], r["license_class"], r["seconds"], r["sample_rate"]) for r in stems} == {
        ("MIT (font)", "permissive", 4.0, 8000)
    }
    assert set(stems[0]["aligned_with"]) == {stems[1]["path"], stems[2]["path"]}
    calls = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert {call[0] for call in calls} == {"espeak-ng", "flite", "fluidsynth"} and len(calls) == 22


def test_the_seed_decides(tools, tmp_path):
    made = [module().compose(random.Random(seed), 20.0) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    tempo, stems = made[0]
    assert set(stems) == {"drums", "bass", "other"} and all(notes for _, notes in stems.values())
    for name, (programs, notes) in stems.items():
        channels = {channel for _, _, channel, _, _ in notes}
        assert channels == {9} if name == "drums" else channels <= set(programs)
        assert all(0 <= key < 128 and 0 < velocity < 128 and length > 0 for _, length, _, key, velocity in notes)
        assert max(start for start, *_ in notes) / 480 * 60 / tempo < 20.0


def test_a_midi_file_by_the_byte():
    synthesise = module()
    assert [synthesise.variable_length(n) for n in (0, 127, 128, 16383, 16384)] == [
        b"\x00", b"\x7f", b"\x81\x00", b"\xff\x7f", b"\x81\x80\x00",
    ]  # fmt: skip
    data = synthesise.midi_file(120, {1: 33}, [(480, 480, 1, 40, 99), (0, 480, 1, 40, 100)])
    track = b"\x00\xff\x51\x03\x07\xa1\x20" + b"\x00\xc1\x21" + b"\x00\x91\x28\x64"
    track += b"\x83\x60\x81\x28\x00" + b"\x00\x91\x28\x63" + b"\x83\x60\x81\x28\x00" + b"\x00\xff\x2f\x00"
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 480)
    assert data == header + b"MTrk" + struct.pack(">I", len(track)) + track


@pytest.mark.parametrize("missing", ["espeak-ng", "flite", "fluidsynth"])
def test_missing_programs_name_their_package(tools, tmp_path, missing):
    folder = tools(names={"espeak-ng", "flite", "fluidsynth"} - {missing})
    done = run(folder, tmp_path / "out", "--sentences", 1, "--songs", 1, *font_of(tmp_path))
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert f"{missing} was not found on the PATH (Debian: apt-get install {missing})" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give --sentences or --songs"),
        (("--songs", 1), "songs need --sound-font (Debian: fluid-soundfont-gm) and --sound-font-license"),
        (("--songs", 1, "--sound-font", "gone.sf2", "--sound-font-license", "x"), "gone.sf2: no such sound font"),
        (("--sentences", 1, "--song-seconds", 0), "need --song-seconds from 1 on"),
    ],
)
def test_options_that_cannot_work(tools, tmp_path, options, says):
    done = run(tools(), tmp_path / "out", *options)
    assert done.returncode == 2 and says in done.stderr and not (tmp_path / "out").exists()


def test_what_else_can_go_wrong(tools, tmp_path):
    done = run(tools(fails=("flite",)), tmp_path / "a", "--sentences", 1, "--programs", "flite")
    assert done.returncode == 1 and "flite failed: the voice is hoarse" in done.stderr
    assert not (tmp_path / "a/manifest.json").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/file").write_text("mine")
    done = run(tools(), tmp_path / "b", "--sentences", 1)
    assert done.returncode == 2 and "b: is not an empty folder" in done.stderr
