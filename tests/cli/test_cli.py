"""The command line as users run it: real files, a real (tiny, random) model, what is printed and how it exits."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from commands import run
from tiny import PROMPTS, RATE, UNCONDITIONAL, files_in, noise, tiny_directory

import ussfast
from ussfast.cli import many_files as batch
from ussfast.models.presets import PRESETS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a tree of recordings in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/deep").mkdir(parents=True)
    record(tmp_path / "in/a.wav", 1, 3000, 8000)
    record(tmp_path / "in/deep/b.flac", 2, 4000, 16000)
    record(tmp_path / "in/deep/a.wav", 1, 500, 8000)
    (tmp_path / "in/notes.txt").write_text("not audio")
    return tmp_path


def record(path, channels, samples, rate):
    soundfile.write(path, noise(channels, samples, seed=samples).T, rate)


def load(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def test_separate_a_file(model, folder, capsys):
    code, out, err = run(capsys, "separate", "in/a.wav", "-m", model, "-p", "speech", "-p", "sfx", "-p", "sfx")
    assert (code, err) == (0, "")  # no progress where standard error is not a terminal
    assert out.splitlines() == [f"separated/a/{label}.wav" for label in ("speech", "sfx-1", "sfx-2")]
    expected = ussfast.Separator(model, ("speech", "sfx", "sfx")).separate("in/a.wav")
    for line, stem in zip(out.splitlines(), expected.stems, strict=True):
        np.testing.assert_allclose(load(line), stem, atol=1e-5)


def test_separate_folders_repeats_their_tree(model, folder, capsys):
    code, out, _ = run(capsys, "separate", "in", "-m", model, "-p", "speech", "-o", "out")
    assert code == 0 and files_in(folder / "out") == ["a/speech.wav", "deep/a/speech.wav", "deep/b/speech.wav"]
    assert sorted(out.splitlines()) == [f"out/{name}" for name in files_in(folder / "out")]
    info = soundfile.info("out/deep/b/speech.wav")
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (16000, 2, 4000, "FLOAT")


def test_stems_of_an_earlier_run_are_not_inputs(model, folder, capsys):
    for _ in range(2):
        assert run(capsys, "separate", "in", "-m", model, "-p", "speech", "-o", "in/stems")[0] == 0
        assert files_in(folder / "in/stems") == ["a/speech.wav", "deep/a/speech.wav", "deep/b/speech.wav"]
    # Unless asked for by name.
    assert run(capsys, "separate", "in/stems/a/speech.wav", "-m", model, "-p", "bass", "-o", "in/stems")[0] == 0
    assert "speech/bass.wav" in files_in(folder / "in/stems")
    code, _, err = run(capsys, "separate", "in/stems", "-m", model, "-p", "bass", "-o", "in/stems")
    assert code == 2 and "no audio besides what is in the output directory" in err


def test_json_and_nothing_else(model, folder, capsys):
    code, out, err = run(capsys, "separate", "in", "-m", model, "-p", "speech", "-o", "out", "--json", "--residual")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["input"] for row in rows] == ["in/a.wav", "in/deep/a.wav", "in/deep/b.flac"]
    assert rows[0]["stems"] == {"speech": "out/a/speech.wav", "residual": "out/a/residual.wav"}
    assert [row["error"] for row in rows] == [None] * 3
    for row in rows:
        np.testing.assert_allclose(sum(map(load, row["stems"].values())), load(row["input"]), atol=1e-5)


def test_quiet(model, folder, capsys):
    assert run(capsys, "separate", "in", "-m", model, "-p", "speech", "-q") == (0, "", "")


def test_progress_on_a_terminal(model, folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    arguments = ("separate", "in", "-m", model, "-p", "speech")
    code, out, err = run(capsys, *arguments)
    assert code == 0 and len(out.splitlines()) == 3 and "100%" in err and "1/1 s of audio" in err
    assert run(capsys, *arguments, "--quiet")[2] == ""
    assert run(capsys, *arguments, "--json")[2] == ""


def test_several_jobs_give_the_same(model, folder, capsys):
    arguments = ("separate", "in", "-m", model, "-p", "speech", "-p", "sfx", "--segment", 0.2, "--overlap", 0.1)
    one = run(capsys, *arguments, "-o", "one")
    two = run(capsys, *arguments, "-o", "two", "--jobs", 2)
    assert one[0] == two[0] == 0 and two[1] == one[1].replace("one/", "two/")  # in the order of the inputs
    for name in files_in(folder / "one"):
        np.testing.assert_allclose(load(f"two/{name}"), load(f"one/{name}"), atol=1e-6)


def test_format_bit_depth_and_template(model, folder, capsys):
    base = ("separate", "in/a.wav", "-m", model, "-p", "speech", "-p", "bass", "-o", "out")
    options = ("--format", "flac", "--bit-depth", 16, "--template", "{index}-{name}-{label}.wav")
    code, out, _ = run(capsys, *base, *options)
    assert code == 0 and out.splitlines() == ["out/1-a-speech.flac", "out/2-a-bass.flac"]
    assert {soundfile.info(p).subtype for p in out.splitlines()} == {"PCM_16"}


def test_settings_reach_the_separator(model, folder, capsys):
    base = ("separate", "in/a.wav", "-m", model, "-p", "speech", "-p", "bass")
    short = ("--segment", 0.2, "--overlap", 0.05, "--stitch", "published", "--dtype", "bfloat16")
    assert run(capsys, *base, "-o", "short", *short, "--backend", "reference", "--device", "cpu")[0] == 0
    separator = ussfast.Separator(
        model, ("speech", "bass"), segment=0.2, overlap=0.05, stitch="published", dtype="bfloat16",
        backend="reference", device="cpu",
    )  # fmt: skip
    np.testing.assert_allclose(load("short/a/bass.wav"), separator.separate("in/a.wav")["bass"], atol=1e-5)


def test_unconditional_models_take_no_prompts(folder, capsys):
    directory = tiny_directory(folder, UNCONDITIONAL)
    code, out, _ = run(capsys, "separate", "in/a.wav", "-m", directory)
    assert code == 0 and out.splitlines() == [f"separated/a/source-{n}.wav" for n in (1, 2, 3)]
    code, out, err = run(capsys, "separate", "in/a.wav", "-m", directory, "-p", "speech")
    assert code == 2 and out == "" and "takes no prompts" in err


def test_help_lists_the_commands(capsys):
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    for command in ("separate", "models", "convert", "info", "bench", "train", "evaluate", "demo"):
        assert f"\n  {command} " in out
        code, text, _ = run(capsys, command, "--help")
        assert code == 0 and text.startswith("Usage:")


def test_models(capsys):
    code, out, err = run(capsys, "models")
    assert (code, err) == (0, "") and all(name in out for name in PRESETS)
    code, out, err = run(capsys, "models", "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["presets"] == sorted(PRESETS) and isinstance(content["models"], list)


def test_models_shows_what_is_embedded(tmp_path, capsys, monkeypatch):
    tiny_directory(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    monkeypatch.setattr("ussfast.checkpoints.names.EMBEDDED", tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    code, out, _ = run(capsys, "models")
    assert code == 0 and "TussConfig-0  (tuss, 0.0" in out and "license: CC0-1.0" in out
    assert f"prompts: {', '.join(PROMPTS)}" in out
    row = next(m for m in json.loads(run(capsys, "models", "--json")[1])["models"] if m["name"] == "TussConfig-0")
    assert row["prompts"] == list(PROMPTS) and row["sample_rate"] == RATE and row["license"] == "CC0-1.0"


def test_info(capsys):
    code, out, err = run(capsys, "info")
    assert (code, err) == (0, "") and f"ussfast {ussfast.__version__}, torch" in out and "rms_group_norm" in out
    code, out, _ = run(capsys, "info", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["version"] == ussfast.__version__
    assert {"rms_group_norm"} <= {row["op"] for row in facts["kernels"]}
    used, why = facts["graphs"]["used"], facts["graphs"]["why"]
    assert used == torch.cuda.is_available() and bool(why) != used
    assert ("CUDA graphs: used" in run(capsys, "info")[1]) == used


@pytest.mark.parametrize("cuda", [False, True])
def test_info_is_a_table_with_cuda_only_where_there_is_cuda(capsys, monkeypatch, cuda):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a card")
    code, out, _ = run(capsys, "info")
    names = [row["op"] for row in json.loads(run(capsys, "info", "--json")[1])["kernels"]]
    lines = [line for line in out.splitlines() if line.split()[0] in names]
    assert code == 0 and len(lines) == (len(names) if cuda else len(set(names)))
    column = max(map(len, names)) + 2
    assert {line[column - 2 : column + 3] for line in lines} == ({"  cpu", "  cud"} if cuda else {"  cpu"})
    head = [line for line in out.splitlines() if line.startswith("CUDA")]
    assert len(head) == (2 if cuda else 1) and ("CUDA devices: a card" in head) == cuda


def test_an_interrupt_exits_with_130(model, folder, capsys, monkeypatch):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "separate_all", interrupted)
    assert run(capsys, "separate", "in/a.wav", "-m", model, "-p", "speech")[0] == 130


def python(*arguments, cwd, **settings):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, text=True, capture_output=True, timeout=120, **settings
    )


def test_a_real_process(model, folder):
    done = python("-m", "ussfast", "separate", "in", "-m", model, "-p", "speech", "-o", "out", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_in(folder / "out") == ["a/speech.wav", "deep/a/speech.wav", "deep/b/speech.wav"]
    failed = python("-m", "ussfast", "separate", "gone.wav", "-m", model, "-p", "speech", cwd=folder)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == "ussfast: gone.wav: no such file\n"


def test_help_does_not_import_torch(folder):
    done = python("-X", "importtime", "-m", "ussfast", "--help", cwd=folder)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "Usage:" in done.stdout and {"ussfast.cli.main", "typer"} <= imported
    assert not imported & {"torch", "numpy", "soundfile", "tqdm", "safetensors"}
