"""`ussfast finetune` and `ussfast train transfer`, on small stems."""

import json
import signal
import subprocess
import sys
import time

import pytest
import soundfile
import yaml
from commands import run
from stem_folders import MODELS, stem_folder, stem_recipe
from tiny import files_in, tiny_directory

import ussfast
from ussfast.checkpoints.store import load_model, read_info
from ussfast.train.log import read_log


@pytest.fixture
def stems(folder):
    """The working directory, with a model and stems in it."""
    tiny_directory(folder, MODELS["causal"]).rename(folder / "base")
    stem_folder(folder / "stems", seconds=6.0)
    return folder


def test_a_model_of_ones_own(stems, capsys):
    code, out, err = run(capsys, "finetune", "base", "--stems", "stems", "-o", "mine", "--steps", "30")
    assert code == 0 and "new prompts: high, low, mid" in out and "before: high" in out
    lines = out.splitlines()
    assert any(line.startswith("step 25: high ") for line in lines)
    gains = [line.split() for line in lines if line.split()[:1] in (["high"], ["low"], ["mid"], ["mean"])]
    assert len(gains) == 4 and all(line[2] == "->" for line in gains)
    assert float(gains[-1][3]) > float(gains[-1][1])
    assert "the same command goes on in" in out and lines[-1].endswith("mine -p high,low,mid")
    use = lines[-1].split(": ", 1)[1].replace("FILE", "a.wav").split()[1:]
    assert run(capsys, *use, "-q")[0] == 0
    assert {"high.wav", "low.wav", "mid.wav"} <= {name.split("/")[-1] for name in files_in(stems)}

    code, out, _ = run(capsys, "finetune", "base", "--stems", "stems", "-o", "mine", "--steps", "32", "-q")
    assert (code, out) == (0, "") and read_info(stems / "mine").source["steps"] == 32
    code, _, err = run(capsys, "finetune", "base", "--stems", "stems", "-o", "base", "--steps", "1")
    assert code == 2 and "base: there is a model already" in err


def test_chosen_stems_and_a_part(stems, capsys):
    assert run(capsys, "finetune", "base", "--stems", "stems", "-o", "usual", "--steps", "2", "-q")[0] == 0
    assert load_model(stems / "usual")[1].source["train"] == "head"
    words = ["--stem", "low", "--stem", "mid", "--train", "lora", "--steps", "2"]
    assert run(capsys, "finetune", "base", "--stems", "stems", "-o", "mine", *words, "-q")[0] == 0
    assert load_model(stems / "mine")[1].prompts[-2:] == ("low", "mid")
    other = ["finetune", "base", "--stems", "stems", "-o", "other", "--steps", "1"]
    code, _, err = run(capsys, *other, "--train", "mask")
    assert code == 2 and "has no part 'mask'; it can train whole, head, lora" in err
    code, _, err = run(capsys, *other, "--stem", "tuba", "--stem", "low")
    assert code == 2 and "no piece has all of tuba, low" in err and not (stems / "other").exists()


def test_bad_stems_are_one_line(stems, capsys):
    for file in (stems / "stems").glob("*/mid.wav"):
        audio, rate = soundfile.read(file)
        soundfile.write(file, 0 * audio, rate)
    code, _, err = run(capsys, "finetune", "base", "--stems", "stems", "-o", "mine", "-q", "--steps", "1")
    assert code == 2 and "mid.wav: silent throughout" in err and len(err.splitlines()) == 1
    assert not (stems / "mine").exists() and not (stems / "mine.run").exists()


def test_ctrl_c_keeps_the_best(stems):
    process = subprocess.Popen(
        [sys.executable, "-m", "ussfast", "finetune", "base", "--stems", "stems", "-o", "mine", "--minutes", "5"],
        cwd=stems, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen = ""
    deadline = time.monotonic() + 120
    while "step 25:" not in seen and time.monotonic() < deadline:
        seen += process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "the same command goes on in" in process.stdout.read()
    assert process.wait(60) == 130
    assert ussfast.Separator(stems / "mine", device="cpu").info.source["steps"] >= 25


def test_transfer_in_two_stages(stems, capsys):
    (stems / "quick.yaml").write_text(yaml.safe_dump(stem_recipe(run={"validate_every": 5})))
    first = ["train", "transfer", "quick.yaml", "--data", "stems", "-o", "pre", "--stage", "pretrain"]
    code, out, _ = run(capsys, *first, "--augment", "incoherent")
    assert code == 0 and "fit of the embedding" in out
    second = ["train", "transfer", "quick.yaml", "--data", "stems", "-o", "run", "--from", "pre/model"]
    code, out, _ = run(capsys, *second, "--train", "mask", "--stem-minutes", "0.05", "--max-minutes", "0.0001")
    again = out.splitlines()[-1]
    assert code == 0 and "to go on: ussfast train transfer quick.yaml --data stems -o run" in again
    code, out, _ = run(capsys, *again.split("to go on: ussfast ")[1].split())
    assert code == 0 and "finished at step 6" in out
    validations = [row for row in read_log(stems / "run") if "si_sdr_improvement" in row]
    assert [row["step"] for row in validations] == [5, 6] and set(validations[0]["si_sdr_improvement"]) == {
        "high", "low", "mid"
    }  # fmt: skip
    config = json.loads((stems / "run/model/config.json").read_text())
    assert config["config"]["labels"] == ["high", "low", "mid"] and "fine-tuned on stems" in config["license"]
    assert "12 clips" not in (stems / "run/model/CREDITS.md").read_text()
    for words, message in (
        (["--stage", "finetune"], "stage finetune needs the model to begin with: --from MODEL"),
        (["--stage", "scratch", "--from", "pre/model"], "begins with a fresh model: leave out --from"),
        (["--train", "mask"], "--train mask is for stage finetune"),
    ):
        code, _, err = run(capsys, *["train", "transfer", "quick.yaml", "--data", "stems", "-o", "x"], *words)
        assert code == 2 and message in err
