"""Command lines on a folder of small files: names, options and templates of all kinds, several inputs, runs again."""

import contextlib
import io
import json
import os
import random
from pathlib import Path

import numpy as np
import soundfile
from tiny import CAUSAL, RATE, noise, tiny_directory

from fuzz.mutate import changed
from ussfast.audio import read
from ussfast.cli.main import main
from ussfast.errors import InputError

SECONDS, MIB = 30.0, 512
NAMES = (
    "a.wav", "talk.wav", "talk.flac", "talk", "speech.wav", "a/speech.wav", "a/sfx.wav", "deep/a.wav", "deep/er/b.ogg",
    "..wav", "...wav", "{name}.wav", "caf\u00e9.wav", "\udcff\udcfe.wav", "n" * 251 + ".wav", "\u97f3" * 80 + ".flac",
    "a b.wav", "-x.wav", "new\nline.wav", ".hidden.wav", "a.wav.wav",
)  # fmt: skip
TEXTS = ("", " ", "x" * 300, "\u97f3", "\udcff", "0", "-1", "nan", "1e999", "9" * 30, "a,b", "{label}", "auto", "a\0b")
TEMPLATES = (
    "{name}/{label}.wav", "{label}.wav", "{name}-{label}", "{index}.flac", "{suffix}/{name}{label}.ogg",
    "{name}{suffix}{index:02}.mp3", "{label}/{name}.opus", "{name}/{name}/{name}-{label}.wav", "a/{index}.wav",
    "{label[a]}", "{label.x}", "{label!r:^1000000000}", "{label:>9}", "{", "../{label}", "/{label}", "{name}.m4a", "",
)  # fmt: skip
# Options with values of which most are good.
OPTIONS: dict[str, tuple[str, ...]] = {
    "-p": ("speech", "sfx", "drums", "speech,sfx", "sfx,sfx"),
    "--stem": ("speech", "residual", "sfx"),
    "--template": TEMPLATES,
    "-o": (".", "out", "a", "deep", "a.wav", "out/deep", "soft"),
    "--format": ("wav", "flac", "mp3", "ogg", "opus"),
    "--bit-depth": ("16", "24", "32"),
    "--clip": ("clamp", "rescale", "none"),
    "--segment": ("0.2", "0.5"),
    "--overlap": ("0.1",),
    "--max-attenuation": ("0", "12"),
    "--jobs": ("1", "2"),
    "--channels": ("linked", "independent"),
    "--quality": ("5",),
    "--bitrate": ("64",),
    "--batch": ("1", "2"),
    "--stitch": ("fade", "published"),
    "--task": ("denoise",),
    "-m": ("tuss", "causal"),
    "--dtype": ("float32", "bfloat16"),
    "--device": ("cpu",),
    "--backend": ("native", "reference"),
}
FLAGS = ("--residual", "--skip-existing", "--json", "-q", "--sum-to-mixture")
STREAM: dict[str, tuple[str, ...]] = {
    **{name: OPTIONS[name] for name in ("-p", "--stem", "-o", "--max-attenuation", "--dtype", "--task")},
    "--latency": ("0.3", "1"), "--on-bad": ("silence", "raise"), "--threads": ("1",),
}  # fmt: skip
STREAM_FLAGS = ("--residual", "--sum-to-mixture", "--stats", "--json", "--all")
OTHERS: tuple[list[str], ...] = (
    ["models"], ["models", "--json"], ["info"], ["--version"], ["separate", "-h"], ["convert", "a.wav", "new"],
    ["evaluate", "--data", "a.wav"], ["evaluate", "--data", "deep", "-m", "causal"], ["train", "keep", "deep", "kept"],
    ["train", "gone", "--data", "a.wav", "-o", "run"], ["bench", "gone"], ["train", "pack", "a.wav", "packed"], [],
)  # fmt: skip


def prepare(folder: Path) -> dict[str, object]:
    for config, name in ((None, "tuss"), (CAUSAL, "causal")):
        tiny_directory(folder, *([config] if config else [])).rename(folder / name)
    audio = {}
    for number, (channels, samples) in enumerate(((1, 900), (2, 2000), (1, 1), (1, 5000))):
        for kind, subtype in (("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")):
            held = io.BytesIO()
            loud = noise(channels, samples, seed=number) * (1, 8)[number % 2]
            soundfile.write(held, loud.T, RATE, format=kind, subtype=subtype)
            audio[kind, number] = held.getvalue()
    return {"models": folder, "audio": audio}


def one(context: dict, rng: random.Random, folder: Path) -> None:
    before = os.getcwd()
    os.chdir(folder)
    try:
        for name in ("tuss", "causal"):
            os.symlink(context["models"] / name, name)
        given = _inputs(context["audio"], rng)
        arguments = _arguments(rng, given)
        for _ in range(rng.choice((1, 1, 2))):
            code = _run(arguments)
        if code:  # counted as refused
            raise InputError(f"exit {code}")
    finally:
        os.chdir(before)


def _inputs(audio: dict, rng: random.Random) -> list[str]:
    names = rng.sample(NAMES, rng.randint(1, 4))
    if rng.random() < 0.3:  # what may be the place of a stem of the first
        names.append(f"{Path(names[0]).stem}/speech.wav" if rng.random() < 0.7 else "speech.wav")
        names = list(dict.fromkeys(names))
    for name in names:
        kind = {".flac": "FLAC", ".ogg": "OGG"}.get(Path(name).suffix, "WAV")
        data = audio[kind, rng.randrange(4)]
        if rng.random() < 0.1:
            data = changed(data, rng)
        path = Path(name)
        with contextlib.suppress(OSError):  # a file where a folder is wanted, or the other way round
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    if rng.random() < 0.1:
        os.symlink(names[0], "link.wav")
        names.append("link.wav")
    if rng.random() < 0.1:
        os.symlink(".", "soft")
    return names + rng.choices(("deep", ".", "a", "gone.wav", *TEXTS), k=rng.choice((0, 0, 0, 1)))


def _arguments(rng: random.Random, given: list[str]) -> list[str]:
    def options(known: dict[str, tuple[str, ...]], flags: tuple[str, ...], most: int) -> list[str]:
        chosen = []
        for name in rng.sample(sorted(known), rng.randint(0, most)):
            chosen += [name, rng.choice(TEXTS) if rng.random() < 0.04 else rng.choice(known[name])]
        return chosen + rng.sample(flags, rng.choice((0, 0, 1, 2)))

    def asked(chosen: list[str]) -> list[str]:
        needed = {"-m": rng.choice(("tuss", "causal")), "-p": "speech"}
        return [
            x for name, value in needed.items() if name not in chosen and "--task" not in chosen for x in (name, value)
        ]

    match rng.randrange(12):
        case 0:
            return list(rng.choice(OTHERS))
        case 1 | 2:
            chosen = options(STREAM, STREAM_FLAGS, 3)
            return ["stream", "--fast", given[0], *chosen, *asked(chosen), *([] if "-o" in chosen else ["-o", "out"])]
        case _:
            chosen = options(OPTIONS, FLAGS, 4)
            names = given if rng.random() < 0.9 else ["."]
            here = ["-o", "."] if "-o" not in chosen and rng.random() < 0.6 else []
            return ["separate", *names, *chosen, *here, *asked(chosen)]


def _run(arguments: list[str]) -> int:
    kept = {path: path.read_bytes() for path in _meant(arguments)}
    before = set(_files())
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace"), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(list(arguments))
        code = 0
    except SystemExit as exit:
        code = int(exit.code or 0) if not isinstance(exit.code, str) else 1
    said = err.getvalue()
    assert code in (0, 1, 2), f"exit {code}"
    assert "Traceback" not in said and "unexpectedly" not in said, f"{arguments}: {said[-400:]}"
    assert (code == 0) or said, f"{arguments}: exit {code} without a word"
    lost = [str(path) for path, data in kept.items() if path.read_bytes() != data]
    assert not lost, f"{arguments}: changed {lost}"
    left = [path.name for path in set(_files()) - before if path.name.startswith(".ussfast-")]
    assert not left, f"{arguments}: left {left}"
    out.flush()
    if arguments[:1] == ["separate"] and "-h" not in arguments:
        _check_stems(arguments, code, out.buffer.getvalue().decode())
    return code


def _check_stems(arguments: list[str], code: int, printed: str) -> None:
    if "--json" in arguments and printed:
        rows = json.loads(printed)
        paths = [path for row in rows for path in row["stems"].values()]
        assert code == 0 or any(row["error"] for row in rows)
    else:
        paths = [] if "\udcff" in str(arguments) or "\n" in "".join(map(str, _files())) else printed.splitlines()
        paths = [path for path in paths if "\\udc" not in path]
    assert len(set(paths)) == len(paths), f"{arguments}: one file twice"
    for path in paths:
        audio, _ = read(path)
        assert np.isfinite(audio).all() and audio.size


def _meant(arguments: list[str]) -> list[Path]:
    """The inputs: files that are named, and those of folders, but for what lies in the output folder."""
    output = next((b for a, b in zip(arguments, arguments[1:], strict=False) if a == "-o"), "separated")
    output = os.path.realpath(output.replace("\0", ""))  # no path has one
    found = []
    for name in arguments[1:]:
        if os.path.isfile(name):
            found.append(Path(name))
        elif os.path.isdir(name) and name not in ("tuss", "causal") and arguments[arguments.index(name) - 1] != "-o":
            inside = [Path(root, file) for root, _, files in os.walk(name) for file in files]
            usual = [p for p in inside if p.suffix in (".wav", ".flac", ".ogg") and "/." not in f"/{p}"]
            found += [p for p in usual if not os.path.realpath(p).startswith(os.path.join(output, ""))]
    return found


def _files() -> list[Path]:
    here = Path.cwd()
    return [p for p in here.rglob("*") if p.is_file() and p.relative_to(here).parts[0] not in ("tuss", "causal")]
