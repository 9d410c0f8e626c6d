"""`ussfast tune`: a prompt that learns from files, in a bank."""

import numpy as np
import pytest
from commands import record, run
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
    vector = direct.tune("dog", *paths, steps=20).vector
    assert np.array_equal(separator.prompts["dog"].vector.numpy(), vector.numpy())
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


def test_ctrl_c_keeps_the_best_so_far(models, clips, capsys, monkeypatch):
    from ussfast.tuning import prompts as tuning

    real = tuning.tune

    def interrupted(frozen, start, learned, held, config, on_step):
        def each(step):
            on_step(step)
            if step.step == 4:
                raise KeyboardInterrupt

        return real(frozen, start, learned, held, config, each)

    monkeypatch.setattr(tuning, "tune", interrupted)
    code, _, _ = run(capsys, "tune", "dog", "dogs", "-o", "my.bank", "-m", models / "causal", "--background", "rain")
    assert code == 130 and [p.name for p in read_bank("my.bank").prompts] == ["dog"]
