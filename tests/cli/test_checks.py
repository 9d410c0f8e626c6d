"""What is wrong with a command is said before torch is imported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from commands import run
from tiny import ASP, CAUSAL, RATE, UNCONDITIONAL, noise, tiny_detector_directory, tiny_directory
from wrong_commands import SEPARATE, STREAM, WRONG

from ussfast.cli import checks
from ussfast.engine.settings import BACKENDS, DTYPES, pick_device
from ussfast.errors import DeviceError
from ussfast.evaluate import run as evaluation
from ussfast.evaluate.dev import HALVES
from ussfast.prompts.bank_file import Saved, save
from ussfast.prompts.origin import Mark

# Runs every command of a JSON list in a process where importing torch fails.
SCRIPT = """
import contextlib, io, json, sys
sys.modules["torch"] = None
from ussfast.cli.main import main
found = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as exit:
            code = exit.code or 0
        except ImportError as error:
            code = f"needed torch: {error}"
    found.append([code, out.getvalue(), err.getvalue()])
json.dump(found, sys.stdout)
"""

# What the parser says, without the words that its library puts first.
PARSER = [
    ([*SEPARATE, "--format", "m4a"], "'m4a' is not one of 'wav', 'flac', 'mp3', 'ogg', 'opus'."),
    ([*STREAM, "--on-bad", "cry"], "Invalid value for '--on-bad': 'cry' is not one of"),
    (["convert", "a", "b", "--weights", "both"], "'both' is not one of 'ema', 'raw'"),
    ([*SEPARATE, "-j", "0"], "Invalid value for '--jobs'"),
]
HELP = [["--version"], ["-h"], ["separate", "-h"], ["stream", "--help"], ["train", "-h"], ["train", "run", "-h"],
        ["evaluate", "-h"], ["evaluate", "detect", "-h"], ["evaluate", "separation", "-h"],
        ["evaluate", "apt", "-h"], ["evaluate", "transfer", "-h"], ["finetune", "-h"], ["train", "transfer", "-h"],
        ["models", "-h"], ["enroll", "-h"], ["prompts", "-h"], ["prompts", "list", "dog.bank"],
        ["--show-completion", "bash"]]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What every command above did: exit code, standard output, standard error."""
    folder = tmp_path_factory.mktemp("early")
    soundfile.write(folder / "good.wav", noise(1, 4000).T, RATE)
    (folder / "empty.wav").touch()
    (folder / "taken").write_text("a file")
    (folder / "nothing").mkdir()
    for name in ("other", "speech.wav", "residual.wav"):
        shutil.copy(folder / "good.wav", folder / name) if "." in name else (folder / name).mkdir()
    shutil.copy(folder / "good.wav", folder / "other")
    for name in ("dog.bank", "too.bank"):
        save(folder / name, Mark("somebody's", "0" * 64), [Saved("dog", np.ones(8, np.float32), None)])
    tiny_detector_directory(folder).rename(folder / "detector")
    for name, config in (("causal", CAUSAL), ("sources", UNCONDITIONAL), ("vectors", ASP)):
        tiny_directory(folder, config).rename(folder / name)
    tiny_directory(folder).rename(folder / "tuss")
    commands = [command for command, *_ in WRONG + PARSER] + HELP
    # The shell is named: what the tests run under may be one that has no completion, or none at all.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(commands), cwd=folder, text=True, capture_output=True,
        env=os.environ | named | {"PYTHONPATH": str(Path(__file__).parents[2])}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in folder.iterdir()) == [
        "causal", "detector", "dog.bank", "empty.wav", "good.wav", "nothing", "other", "residual.wav", "sources",
        "speech.wav", "taken", "too.bank", "tuss", "vectors",
    ]  # fmt: skip
    return dict(zip(map(tuple, commands), json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("command", "code", "says"), WRONG, ids=[" ".join(c) for c, *_ in WRONG])
def test_what_is_wrong_is_said_without_torch(results, command, code, says):
    found, out, err = results[tuple(command)]
    assert found == code and out == "" and err.startswith("ussfast: ") and err.count("\n") == 1 and says in err, err


@pytest.mark.parametrize(("command", "says"), PARSER)
def test_options_are_refused_in_plain_words(results, command, says):
    code, out, err = results[tuple(command)]
    assert code == 2 and out == "" and says in err and "Value error" not in err


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_needs_no_torch(results, command):
    code, out, err = results[tuple(command)]
    assert (code, err) == (0, "")
    if command == ["--version"]:
        assert out.startswith("ussfast 0.")
    elif "-h" in command or "--help" in command:
        assert out.startswith("Usage: ")


def test_help_names_models_prompts_and_tasks(results):
    for command in ("separate -h", "stream --help"):
        text = " ".join(results[tuple(command.split())][1].split())
        assert "default, a model directory" in text and "denoise (speech, sfxbg -> speech)" in text
        assert "The default model knows speech, sfx, sfxbg, drums, bass, vocals, other, musicbg." in text


def test_names_are_those_of_the_engine():
    assert (checks.DTYPES, checks.BACKENDS) == (tuple(DTYPES), BACKENDS)
    assert (checks.BASELINES, checks.SPLITS) == (tuple(evaluation.BASELINES), (evaluation.ALL_OF_DEV, *HALVES))


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("separate --task d", "denoise dialogue"),
        ("stream -m d", "default"),
        ("tr", "train"),
        ("separate --st", "--stem --stitch --stereo"),
    ],
)
def test_shells_complete_commands_options_models_and_tasks(typed, offered):
    script = (
        "import sys; sys.argv = ['ussfast']; sys.modules['torch'] = None; from ussfast.cli.main import main; main()"
    )
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]), "_USSFAST_COMPLETE": "complete_bash",
        "COMP_WORDS": f"ussfast {typed}", "COMP_CWORD": str(len(typed.split())),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], env=environment, text=True, capture_output=True, timeout=60)
    assert done.stdout.split() == offered.split()


@pytest.mark.parametrize("name", ["auto", "cpu", "cpu:0", "cuda:x", "cuda:", "gpu", "", "auto:0", "meta", "CPU", ":"])
def test_devices_are_refused_as_the_engine_does(name):
    def refuses(check):
        try:
            check()
        except DeviceError:
            return True
        return False

    assert refuses(lambda: checks.engine(name, "auto", "auto")) == refuses(lambda: pick_device(name))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with good.wav and a model of each kind in it."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("good.wav", noise(1, 4000).T, RATE)
    tiny_directory(tmp_path, CAUSAL).rename("causal")
    tiny_directory(tmp_path).rename("tuss")
    return tmp_path


def test_options_that_do_nothing_are_told(folder, capsys):
    base = ("separate", "good.wav", "-p", "speech", "-m")
    windows = ("--overlap", 0.1, "--stitch", "fade", "--segment", 0.4)
    code, out, err = run(capsys, *base, "causal", *windows)
    assert code == 0 and out == "separated/good/speech.wav\n"
    assert err == "ussfast: --overlap, --stitch do nothing here: model 'causal' is causal, it has no windows to join\n"
    assert "--look-ahead does nothing here" in run(capsys, *base, "causal", "--look-ahead", 0.1)[2]
    assert run(capsys, *base, "causal", *windows, "--quiet") == (0, "", "")
    assert run(capsys, *base, "causal", "--segment", 0.4)[2] == run(capsys, *base, "tuss", *windows)[2] == ""


def test_bad_files_alone_are_told_with_json_too(folder, capsys):
    Path("bad.wav").touch()
    code, out, err = run(capsys, "separate", "bad.wav", "-p", "speech", "-m", "tuss", "--json")
    [row] = json.loads(out)
    assert code == 2 and row["stems"] == {} and row["error"] in err and "empty file" in err


# The error is for machines without such a device.
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_only_torch_can_refuse(folder, capsys):
    code, _, err = run(capsys, "separate", "good.wav", "-p", "speech", "-m", "tuss", "--device", "cuda:7")
    assert code == 2 and "device 'cuda:7' is not available" in err
