"""`ussfast tune`: a prompt that learns from files, in a bank."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import record, run
from easy_sounds import RATE, hiss, tones
from tiny import ASP, CAUSAL, tiny_detector_directory, tiny_directory

from ussfast import Separator
from ussfast.prompts.files import read_bank


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_directory(folder, CAUSAL).rename(folder / "causal")
    tiny_directory(folder, ASP).rename(folder / "vectors")
    tiny_detector_directory(folder).rename(folder / "detector")
    return folder


@pytest.fixture
def clips(folder):
    """The working directory, with three recordings of dogs and two of rain."""
    for seed, name in enumerate(("dogs/one", "dogs/two", "dogs/three", "rain/a", "rain/b"), 1):
        record(f"{name}.wav", 9000, seed)
    return folder


def test_a_bank_gets_a_tuned_prompt(models, clips, capsys):
    model = models / "causal"
    assert run(capsys, "enroll", "cat", "rain/a.wav", "-o", "my.bank", "-m", model, "-q")[0] == 0
    code, out, err = run(
        capsys, "tune", "dog", "dogs", "-o", "my.bank", "-m", model, "--background", "rain", "--steps", "20"
    )
    assert (code, err) == (0, "") and out.startswith("my.bank: dog, ") and " in 20 steps" in out
    told = {p.name: p for p in read_bank("my.bank").prompts}
    assert set(told) == {"cat", "dog"} and told["dog"].count == 3 and len(told["dog"].clips) == 3
    assert told["dog"].kind == ("tuned" if "dog, tuned:" in out else "enrolled")
    separator = Separator(model, device="cpu")
    separator.load_prompts("my.bank")
    direct = Separator(model, device="cpu")
    paths = sorted(clips.glob("dogs/*.wav")), sorted(clips.glob("rain/*.wav"))
    tuned, loaded = direct.tune("dog", *paths, steps=20), separator.prompts["dog"]
    assert np.array_equal(loaded.vector.numpy(), tuned.vector.numpy())
    assert (loaded.kind, loaded.origin.tuning) == (tuned.kind, tuned.origin.tuning) and loaded.origin.tuning.steps == 20
    _, listed, _ = run(capsys, "prompts", "list", "my.bank")
    assert ("tuned: held-out SDR" in listed) == (tuned.kind == "tuned")
    assert run(capsys, "prompts", "refresh", "my.bank", "-m", model, "-o", "new.bank")[0] == 0
    assert [(p.kind, p.tuning) for p in read_bank("new.bank").prompts] == [("enrolled", None)] * 2
    assert run(capsys, "separate", "rain/a.wav", "-m", model, "--bank", "my.bank", "-p", "dog", "-q")[0] == 0


def test_vectors_by_a_detector_are_tuned_too(models, clips, capsys):
    code, out, err = run(
        capsys, "tune", "dog", "dogs/one.wav", "-o", "my.bank", "-m", models / "vectors", "--detector",
        models / "detector", "--background", "rain", "--steps", "3", "--no-clips",
    )  # fmt: skip
    assert (code, err) == (0, "") and read_bank("my.bank").prompts[0].clips == ()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("speech", "dogs"), "is a prompt of model"),
        (("dog", "nothing"), "nothing"),
        (("dog", "dogs", "--start", "wolf"), "unknown prompt 'wolf'"),
        (("dog", "dogs", "--background", "nothing"), "nothing"),
        (("dog", "dogs", "--steps", "0"), "steps"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(models, clips, capsys, arguments, says):
    code, out, err = run(capsys, "tune", *arguments, "-o", "my.bank", "-m", models / "causal")
    assert code == 2 and out == "" and says in err and not (clips / "my.bank").exists()


@pytest.fixture
def easy(folder):
    """The working directory, with clips that a prompt can learn from."""
    for number in range(5):
        os.makedirs("tone", exist_ok=True)
        soundfile.write(f"tone/{number}.wav", tones(number), RATE)
    os.makedirs("hiss")
    soundfile.write("hiss/1.wav", hiss(1), RATE)
    return folder


def test_a_model_learns_too(models, clips, capsys):
    arguments = ("tune", "dog", "dogs", "-m", models / "causal", "--background", "rain", "--joint", "-o", "mine")
    code, out, err = run(capsys, *arguments, "--steps", "20", "--find-lr")
    assert (code, err) == (0, "") and out.startswith("mine: a model that knows dog: held-out SDR ")
    assert "dog" in Separator("mine", device="cpu").prompts
    code, out, err = run(capsys, *arguments, "--steps", "1")
    assert code == 2 and "there is a model already" in err
    assert run(capsys, *arguments, "--steps", "1", "--overwrite", "-q")[:2] == (0, "")
    assert run(capsys, "separate", "rain/a.wav", "-m", "mine", "-p", "dog", "-q")[0] == 0


def test_clipped_clips_are_told(models, easy, capsys):
    soundfile.write("tone/loud.wav", np.clip(4 * tones(7), -0.5, 0.5), RATE)
    code, _, err = run(
        capsys, "tune", "tone", "tone", "-m", models / "causal", "--background", "hiss", "--steps", "1", "-o", "my.bank"
    )
    assert code == 0 and "tone/loud.wav: clipped" in err and len(err.splitlines()) == 1


def test_an_hour_is_read_in_pieces_and_its_loudest_part_taken(models, easy, capsys):
    hour = np.zeros(3600 * RATE, np.float32)
    hour[2000 * RATE : 2000 * RATE + RATE] = tones(1, 1.0)
    soundfile.write("hour.flac", hour, RATE)
    code, out, err = run(
        capsys, "tune", "tone", "hour.flac", "-m", models / "causal", "--background", "hiss", "--steps", "1", "-o",
        "my.bank",
    )  # fmt: skip
    assert (code, err) == (0, "") and read_bank("my.bank").prompts[0].count == 1


def test_a_full_disk_leaves_the_bank_as_it_was(models, easy, capsys, monkeypatch):
    arguments = ("-m", models / "causal", "-o", "my.bank", "-q")
    assert run(capsys, "enroll", "cat", "hiss", *arguments)[0] == 0
    before = Path("my.bank").read_bytes()
    whole = Path.write_bytes

    def full(self, data):
        whole(self, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, out, err = run(capsys, "tune", "tone", "tone", "--background", "hiss", "--steps", "2", *arguments)
    assert code == 1 and out == "" and "my.bank: could not be written: No space left on device" in err
    assert Path("my.bank").read_bytes() == before and os.listdir() != [] and "Traceback" not in err
    assert sorted(os.listdir()) == ["a.wav", "hiss", "my.bank", "tone"]


def test_killed_in_the_middle_the_last_best_prompt_is_on_disk(models, easy):
    command = [sys.executable, "-m", "ussfast", "tune", "tone", "tone", "--background", "hiss", "-m"]
    command += [str(models / "causal"), "-o", "my.bank", "--minutes", "100"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            last = time.monotonic() + 120
            while not os.path.exists("my.bank") and process.poll() is None and time.monotonic() < last:
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
    separator = Separator(models / "causal", device="cpu")
    [prompt] = separator.load_prompts("my.bank")
    assert prompt.name == "tone" and prompt.kind == "tuned" and len(prompt.origin.clips) == 5


def test_ctrl_c_keeps_the_best_so_far(models, clips, capsys, monkeypatch):
    from ussfast.tuning import prompts as tuning

    real = tuning.tune

    def interrupted(tuner, on_step):
        def each(step):
            on_step(step)
            if step.step == 4:
                raise KeyboardInterrupt

        return real(tuner, each)

    monkeypatch.setattr(tuning, "tune", interrupted)
    code, _, _ = run(capsys, "tune", "dog", "dogs", "-o", "my.bank", "-m", models / "causal", "--background", "rain")
    assert code == 130 and [p.name for p in read_bank("my.bank").prompts] == ["dog"]
