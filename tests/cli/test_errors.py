"""What goes wrong on the command line: one line on standard error, exit code 2 for bad input and 1 for failures."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from commands import run
from tiny import RATE, files_in, noise

from ussfast.models import SpectralModel


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with good.wav in it."""
    monkeypatch.chdir(tmp_path)
    record("good.wav")
    return tmp_path


def record(path, samples=4000, rate=RATE, broken_at=None):
    audio = noise(1, samples)
    if broken_at is not None:
        audio[0, broken_at] = np.nan
    soundfile.write(path, audio.T, rate, format="WAV", subtype="FLOAT")


def complaint(result, code):
    """The one line of a failed run."""
    assert result[0] == code, result
    assert result[2].startswith("ussfast: ") and result[2].count("\n") == 1, result[2]
    return result[2]


def truncated(path):
    record(path)
    with open(path, "r+b") as file:
        file.truncate(9000)


BROKEN = {
    "missing": (lambda path: None, "bad.wav: no such file"),
    "empty": (lambda path: open(path, "w").close(), "bad.wav: empty file (0 bytes)"),
    "garbage": (lambda path: open(path, "wb").write(bytes(range(256)) * 99), "bad.wav: libsndfile could not read it"),
    "truncated": (truncated, "bad.wav: truncated"),
    "NaN": (lambda path: record(path, broken_at=2000), "bad.wav: contains NaN, first at 0.250 s"),
    "no samples": (lambda path: record(path, samples=0), "bad.wav: no audio in it (0 samples)"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_file(model, folder, capsys, kind):
    make, says = BROKEN[kind]
    make("bad.wav")
    result = run(capsys, "separate", "bad.wav", "-m", model, "-p", "speech", "-o", "out")
    assert says in complaint(result, 2) and result[1] == ""
    assert not (folder / "out").exists() or files_in(folder / "out") == []


@pytest.mark.parametrize("kind", ["empty", "garbage", "truncated", "NaN"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bad_file_among_good_ones(model, folder, capsys, kind, jobs):
    make, says = BROKEN[kind]
    (folder / "in").mkdir()
    for name in ("a.wav", "c.wav"):
        record(folder / "in" / name)
    make("in/bad.wav")
    arguments = ("separate", "in", "-m", model, "-p", "speech", "-o", "out", "--jobs", jobs)
    assert says in complaint(run(capsys, *arguments), 2)
    assert files_in(folder / "out") == ["a/speech.wav", "c/speech.wav"]
    result = run(capsys, *arguments, "--json")
    assert says in complaint(result, 2)
    rows = json.loads(result[1])
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert [bool(row["stems"]) for row in rows] == [True, False, True] and says in rows[1]["error"]


def test_an_empty_folder(model, folder, capsys):
    (folder / "in").mkdir()
    assert "in: no audio in this folder" in complaint(run(capsys, "separate", "in", "-m", model, "-p", "speech"), 2)


def test_prompts(model, folder, capsys):
    base = ("separate", "good.wav", "-m", model, "-o", "out")
    assert "unknown prompt 'speach'; did you mean speech" in complaint(run(capsys, *base, "-p", "speach"), 2)
    assert "no prompts given; name at least one of: speech, sfx" in complaint(run(capsys, *base), 2)
    assert not (folder / "out").exists()


def altered(model, folder, change):
    """A copy of the model directory whose config.json went through `change`."""
    copy = folder / "copy"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    content = json.loads((model / "config.json").read_text())
    change(content)
    (copy / "config.json").write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["config"].update(decoder_expansion=2), "the weights are not those of the configured model"),
        (lambda c: c["config"].update(sos=False), "unexpected: sos"),
        (lambda c: c["config"].update(colour=1), "unknown ['colour']"),
        (lambda c: c["config"].update(bands=[65, 1]), "sum to 65 bins"),
        (lambda c: c["weights"].update(sha256="0" * 64), "damaged or incomplete"),
        (lambda c: c["weights"].update(file="other.safetensors"), "'other.safetensors' of its config.json are missing"),
        (lambda c: c.update(version=99), "this ussfast reads 'ussfast-model', version 1"),
    ],
)
def test_a_model_that_does_not_fit_together(model, folder, capsys, change, says):
    copy = altered(model, folder, change)
    assert says in complaint(run(capsys, "separate", "good.wav", "-m", copy, "-p", "speech"), 2)


def test_models_that_are_not_there(folder, capsys):
    (folder / "empty").mkdir()
    for name, says in (
        ("empty", "not a ussfast model directory"),
        ("good.wav", "a file, not a model directory"),
        ("nonsense name", "no model 'nonsense name'"),
        ("tuss-medium", "'tuss-medium' is a preset without weights"),
    ):
        assert says in complaint(run(capsys, "separate", "good.wav", "-m", name, "-p", "speech"), 2)


def test_outputs_that_cannot_be_written(model, folder, capsys):
    (folder / "taken").write_text("a file")
    base = ("separate", "good.wav", "-m", model, "-p", "speech", "-o")
    for directory in ("taken", "taken/deeper", "/proc/nowhere"):
        assert "cannot be used for output" in complaint(run(capsys, *base, directory), 1)
    assert (folder / "taken").read_text() == "a file"
    (folder / "out/good/speech.wav").mkdir(parents=True)
    assert "speech.wav: is a folder" in complaint(run(capsys, *base, "out"), 1)


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_a_full_disk(model, folder, format):
    """A limit on the size of files stands for the disk: writes fail in the middle, in a process of its own."""
    record(folder / "long.wav", samples=90_000)
    command = [sys.executable, "-m", "ussfast", "separate", "long.wav", "-m", str(model), "-p", "speech", "-o", "out"]
    done = subprocess.run(
        [*command, "--segment", "1", "--format", format],
        cwd=folder, text=True, capture_output=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert "could not be written: File too large" in complaint((done.returncode, done.stdout, done.stderr), 1)
    assert done.stdout == "" and files_in(folder / "out") == []


# The error is for machines without such a device.
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_such_device(model, folder, capsys):
    base = ("separate", "good.wav", "-m", model, "-p", "speech")
    assert "device 'cuda' is not available" in complaint(run(capsys, *base, "--device", "cuda"), 2)


def test_out_of_memory(model, folder, capsys, monkeypatch):
    def separate(*args):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(SpectralModel, "separate", separate)
    result = run(capsys, "separate", "good.wav", "-m", model, "-p", "speech", "-o", "out", "--segment", 4)
    assert "out of memory on cpu, also with a segment of 2 s: use a shorter segment" in complaint(result, 1)
    assert files_in(folder / "out") == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--segment", -1), "need a segment above 0 s"),
        (("--segment", "nan"), "need a segment above 0 s"),
        (("--segment", 1, "--overlap", 1), "overlap from 0 s to below the segment"),
        (("--dtype", "float8"), "dtype must be one of"),
        (("--backend", "magic"), "backend must be one of"),
        (("--device", "gpu"), "unknown device 'gpu'"),
        (("--bit-depth", 17), "bit_depth must be one of"),
        (("--format", "flac", "--bit-depth", 32), "bit_depth must be one of"),
        (("--format", "mp3", "--bit-depth", 16), "bit_depth is for wav and flac"),
        (("--bitrate", 128), "wav has no bitrate to choose: mp3 and opus have"),
        (("--format", "opus", "--quality", 5), "opus has no quality to choose"),
        (("--format", "mp3", "--quality", 11), "quality must lie between 0 and 10, not at 11.0"),
        (("--format", "mp3", "--quality", 5, "--bitrate", 128), "exclude each other"),
        (("--format", "mp3", "--bitrate", 100), "cannot have 100 kbit/s: one of ["),
        (("--format", "flac", "--clip", "none"), "PCM holds nothing beyond full scale"),
        (("--template", "{stem}"), "may use {label}, {name}, {index} and {suffix} only"),
        (("--template", "../{label}"), "must stay inside the output directory"),
    ],
)
def test_values_that_cannot_work(model, folder, capsys, options, says):
    base = ("separate", "good.wav", "-m", model, "-p", "speech", "-o", "out")
    assert says in complaint(run(capsys, *base, *options), 2)
    assert not (folder / "out").exists() or files_in(folder / "out") == []


@pytest.mark.parametrize(
    "options",
    [("--format", "m4a"), ("--jobs", 0), ("--segment", "long"), ("--stitch", "sew"), ("--fromat", "wav"), ()],
)
def test_values_that_the_parser_refuses(model, folder, capsys, options):
    base = ("separate", "good.wav", "-m", model) if options else ("separate",)
    code, out, err = run(capsys, *base, *options)
    assert code == 2 and out == "" and "Usage: " in err and "Error" in err


def test_convert_of_what_is_no_checkpoint(folder, capsys):
    assert "gone: no such file or directory" in complaint(run(capsys, "convert", "gone", "out"), 2)
    torch.save({"weight": torch.zeros(3)}, "weights.pth")
    line = complaint(run(capsys, "convert", "weights.pth", "out"), 2)
    assert "hparams.yaml" in line and "config.yaml" in line
    assert not (folder / "out").exists()


def test_training_and_evaluation_without_data(folder, model, capsys):
    for command in (("train", "default", "-o", "run"), ("evaluate", "-m", model)):
        assert "gone.json: no such manifest" in complaint(run(capsys, *command, "--data", "gone.json"), 2)
