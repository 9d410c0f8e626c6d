"""`ussfast evaluate apt`: what each method is given and measured on, and what is kept. Tables: test_apt_report.py"""

import json
import sys
import types

import numpy as np
import pytest
import torch
from apt_data import esc50, manifest, musdb18, record
from tiny import ASP, CAUSAL, RATE, tiny_detector_directory, tiny_directory

from ussfast import Separator
from ussfast.errors import InputError
from ussfast.evaluate import apt, apt_report
from ussfast.evaluate.apt import NAME, Experiment
from ussfast.evaluate.apt_cases import AptConfig, read_cases
from ussfast.evaluate.apt_mixtures import mixtures_of
from ussfast.evaluate.metrics import sdr, snr

CONFIG = AptConfig(mixtures=3, seconds=2.0, steps=2)
SHOTS = ("1", "2", "full")


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return tiny_directory(tmp_path_factory.mktemp("models"), CAUSAL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return esc50(tmp_path_factory.mktemp("esc50"))


@pytest.fixture
def data(folder):
    return read_cases(folder)


@pytest.fixture
def separator(causal):
    return Separator(causal, device="cpu")


class Asked:
    """What `Separator.tune` and `tune_jointly` are asked for; a prompt of ones is what the former finds."""

    def __init__(self, monkeypatch):
        self.calls = []

        def tune(separator, name, clips, backgrounds=None, sample_rate=None, start="enrolled", **settings):
            self.calls.append(("tuned", clips, backgrounds, settings))
            separator.prompts.add(apt.Prompt(name, torch.ones(CAUSAL.dim), "tuned"))
            return separator.prompts[name]

        def tune_jointly(separator, name, clips, backgrounds=None, sample_rate=None, start="enrolled", **settings):
            self.calls.append(("joint", clips, backgrounds, settings))
            another = Separator.from_model(separator.engine.model)
            another.prompts.add(apt.Prompt(name, -torch.ones(CAUSAL.dim), "tuned"))
            return another

        joint = types.ModuleType("ussfast.tuning.joint")
        joint.tune_jointly = tune_jointly
        monkeypatch.setitem(sys.modules, "ussfast.tuning.joint", joint)
        monkeypatch.setattr(Separator, "tune", tune)


@pytest.fixture
def asked(monkeypatch):
    return Asked(monkeypatch)


def run(separator, data, folder, shots=SHOTS, methods=("mean", "robust", "tuned"), config=CONFIG, labels=None):
    return Experiment(separator, data, config, folder).run(data.chosen(labels), shots, methods, quiet=True)


def test_prompts_are_those_of_enroll(separator, data, tmp_path):
    found = run(separator, data, tmp_path, methods=("mean", "robust"), labels=["dog"])
    dog = data.classes[1]
    for shots, count in zip(SHOTS, (1, 2, 6), strict=True):
        for method in ("mean", "robust"):
            one = found.outcomes["dog"][shots][method]
            vector = separator.enroll("it", dog.order(0)[:count], average=method).vector
            assert one.clips == count and np.allclose(one.vector, vector.cpu().numpy(), rtol=1e-6)
            assert len(one.sdr) == len(one.snr) == 3 and one.kept is None
    assert found.outcomes["dog"]["full"]["mean"].vector != found.outcomes["dog"]["full"]["robust"].vector


def test_all_are_measured_on_the_same_mixtures(separator, data, tmp_path, asked):
    found = run(separator, data, tmp_path, methods=("mean", "tuned", "joint"), labels=["cat"])
    made = list(mixtures_of(data.classes[0], data.classes, 3, 2.0, RATE, 0))
    for shots in SHOTS:
        for one in found.outcomes["cat"][shots].values():
            separator.prompts.add(apt.Prompt(NAME, torch.tensor(one.vector), "enrolled"))
            outs = [separator.separate(a + b, RATE, prompts=NAME).stems[0, 0] for a, b in made]
            assert one.sdr == pytest.approx(
                [sdr(out, a, RATE) for out, (a, _) in zip(outs, made, strict=True)], abs=1e-3
            )
            assert one.snr == pytest.approx([snr(out, a) for out, (a, _) in zip(outs, made, strict=True)], abs=1e-3)
        tuned, joint = (found.outcomes["cat"][shots][method].vector for method in ("tuned", "joint"))
        assert set(tuned) == {1.0} and set(joint) == {-1.0}, "the joint one is of another separator"


def test_tuning_mixes_with_as_many_clips_of_the_others(separator, data, tmp_path, asked):
    run(separator, data, tmp_path, methods=("tuned", "joint"), labels=["dog"])
    cat, dog, rain = data.classes
    for (method, clips, beside, settings), (shots, which) in zip(
        asked.calls, [(n, m) for n in (1, 2, 6) for m in ("tuned", "joint")], strict=True
    ):
        assert method == which and clips == dog.order(0)[:shots]
        assert sorted(beside) == sorted(cat.order(0)[:shots] + rain.order(0)[:shots])
        assert (settings["steps"], settings["seed"]) == (2, 0)
    asked.calls.clear()
    bundled = AptConfig(3, 2.0, "bundled")
    run(separator, data, tmp_path / "bundled", ("1",), ("tuned",), bundled, ["dog"])
    [(_, _, beside, settings)] = asked.calls
    assert beside is None and "steps" not in settings


def test_backgrounds_are_bounded(separator, data, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(apt, "MOST_BACKGROUNDS", 5)
    run(separator, data, tmp_path, ("full",), ("tuned",))
    for (_, clips, beside, _), sound in zip(asked.calls, data.classes, strict=True):
        others = {path for c in data.classes if c is not sound for path in c.training}
        assert len(clips) == 6 and len(set(beside)) == 5 and set(beside) <= others


def test_what_is_really_tuned(separator, data, tmp_path):
    settings, rain = AptConfig(mixtures=1, seconds=2.0, steps=20), data.classes[2]
    experiment = Experiment(separator, data, settings, tmp_path)
    outcomes = experiment.run([rain], ["2"], ["mean", "tuned"], quiet=True).outcomes["rain"]["2"]
    beside = experiment._backgrounds(rain, "2")
    direct = separator.tune("it", rain.order(0)[:2], beside, steps=20, seed=0)
    assert outcomes["tuned"].vector == pytest.approx(direct.vector.tolist(), rel=1e-6)
    assert outcomes["tuned"].kept == (direct.kind == "tuned")
    assert outcomes["tuned"].kept == (outcomes["tuned"].vector != outcomes["mean"].vector)


def test_the_model_learns_in_a_copy(separator, data, tmp_path):
    before = {key: value.clone() for key, value in separator.engine.model.state_dict().items()}
    settings = AptConfig(mixtures=1, seconds=2.0, steps=2)
    found = run(separator, data, tmp_path, ("1",), ("mean", "joint"), settings, ["rain"])
    assert len(found.outcomes["rain"]["1"]["joint"].vector) == CAUSAL.dim
    assert all(torch.equal(value, before[key]) for key, value in separator.engine.model.state_dict().items())


def test_what_is_done_is_not_done_again(separator, data, tmp_path, asked, monkeypatch):
    first = run(separator, data, tmp_path, ("1",), ("mean", "tuned"), labels=["cat", "dog"])
    asked.calls.clear()
    separated = []
    whole = Separator.separate
    monkeypatch.setattr(Separator, "separate", lambda self, *a, **k: separated.append(1) or whole(self, *a, **k))
    again = run(separator, data, tmp_path, ("1",), ("mean", "tuned"), labels=["cat", "dog"])
    assert not separated and not asked.calls and again.outcomes == first.outcomes
    more = run(separator, data, tmp_path, ("1", "2"), ("mean", "tuned"))
    assert [(m, len(clips)) for m, clips, _, _ in asked.calls] == [
        ("tuned", 2),
        ("tuned", 2),
        ("tuned", 1),
        ("tuned", 2),
    ]
    assert len(separated) == 3 * (2 + 2 + 4), "mixtures of what was missing"
    assert all(more.outcomes[name]["1"] == first.outcomes[name]["1"] for name in ("cat", "dog"))


def test_ctrl_c_keeps_what_is_done(separator, data, tmp_path, asked, monkeypatch):
    tune = Separator.tune

    def interrupted(self, name, clips, *rest, **more):
        if len(clips) == 2:
            raise KeyboardInterrupt
        return tune(self, name, clips, *rest, **more)

    monkeypatch.setattr(Separator, "tune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(separator, data, tmp_path)
    [file] = (tmp_path / "classes").iterdir()
    assert file.name == "000-cat.json"
    kept = json.loads(file.read_text())["shots"]
    assert {shots: list(rows) for shots, rows in kept.items()} == {
        "1": ["mean", "robust", "tuned"],
        "2": ["mean", "robust"],
    }
    monkeypatch.setattr(Separator, "tune", tune)
    asked.calls.clear()
    found = run(separator, data, tmp_path)
    assert [len(clips) for _, clips, _, _ in asked.calls] == [2, 6, 1, 2, 6, 1, 2, 6]
    assert set(found.outcomes) == {"cat", "dog", "rain"}


def test_a_folder_is_of_one_experiment(separator, data, tmp_path, causal, folder):
    run(separator, data, tmp_path, ("1",), ("mean",), labels=["cat"])
    another = tiny_directory(tmp_path, CAUSAL, seed=1)
    fewer = read_cases(esc50(tmp_path / "fewer", per_fold=1))
    for changed, says in (
        ((Separator(another, device="cpu"), data, CONFIG), "another experiment: model is"),
        ((separator, fewer, CONFIG), "another experiment: clips is"),
        ((separator, data, AptConfig(4, 2.0, steps=2)), "mixtures is 3 there and 4 here; choose another folder"),
        ((separator, data, AptConfig(3, 2.0, steps=2, seed=1)), "seed is 0 there and 1 here"),
        ((separator, data, AptConfig(3, 2.0, steps=3)), "steps is 2 there and 3 here"),
    ):
        with pytest.raises(InputError, match=says):
            Experiment(*changed, tmp_path)
    (tmp_path / "classes/000-cat.json").write_text("{}")
    with pytest.raises(InputError, match=r"000-cat\.json: not results of 'cat'.*remove it"):
        run(separator, data, tmp_path, ("1",), ("mean",))
    (tmp_path / "apt-settings.json").write_text("[")
    with pytest.raises(InputError, match="apt-settings.json: not readable as JSON"):
        Experiment(separator, data, CONFIG, tmp_path)


def test_silent_clips_do_not_count(separator, tmp_path):
    data = read_cases(esc50(tmp_path / "data"))
    cat = data.classes[0]
    order = cat.order(0)
    for path in order[1:]:
        record(path, "cat", -1)
    found = run(separator, data, tmp_path / "out", ("1", "5"), ("mean",), labels=["cat"])
    assert [found.outcomes["cat"][shots]["mean"].clips for shots in ("1", "5")] == [1, 1]
    record(order[0], "cat", 1, seconds=0.05)
    with pytest.raises(InputError, match="is silent or too short, and so are all clips of 'cat'"):
        run(separator, data, tmp_path / "none", ("1",), ("mean",))
    order[0].write_bytes(b"nothing")
    with pytest.raises(InputError, match="could not|not recognised|unknown format|ffmpeg"):
        run(separator, data, tmp_path / "bad", ("1",), ("mean",))


def test_stems_that_are_called_like_prompts_of_the_model(separator, tmp_path):
    data = read_cases(musdb18(tmp_path / "data", seconds=3.0))
    found = run(separator, data, tmp_path / "out", ("1", "full"), ("mean",))
    assert [found.outcomes["vocals"][shots]["mean"].clips for shots in ("1", "full")] == [1, 2]
    line = next(row for row in apt_report.table(found).splitlines() if row.startswith("| full | 2 |"))
    assert line.endswith("| 4.31 -> 4.98 |"), "without the means of classes, which are not published for these"
    assert separator.prompts["vocals"].kind == "class"


def test_the_command(causal, folder, tmp_path, command, capsys, asked):
    out = tmp_path / "out"
    given = ("evaluate", "apt", "--data", folder, "-m", causal, "--device", "cpu", "-o", out, "--mixtures", 2)
    given += ("--seconds", 2, "--steps", 3, "--shots", "2,1", "--labels", "rain,cat")
    assert command(*given) == 0
    printed = capsys.readouterr().out
    assert "| 1 | 1 | " in printed and "published (ESC-50)" in printed and printed.endswith(f"{out}/apt-prompts.png\n")
    told = json.loads((out / "apt.json").read_text())
    assert list(told["classes"]) == ["cat", "rain"] and list(told["classes"]["cat"]) == ["1", "2"]
    assert sorted(path.name for path in (out / "classes").iterdir()) == ["000-cat.json", "002-rain.json"]
    assert command(*given, "--json") == 0
    assert json.loads(capsys.readouterr().out) == told["averages"]
    assert command(*given, "--quiet") == 0 and capsys.readouterr().out == ""
    assert command(*given[:-1], "wolf") == 2 and "no class 'wolf'; there are cat, dog, rain" in capsys.readouterr().err


def test_a_manifest_is_not_replaced(causal, tmp_path, command, capsys):
    rows = [(f"{split}-{name}.wav", "sfx", name, split) for split in ("tune", "dev") for name in ("cat", "dog")]
    path = manifest(tmp_path, rows, "apt.json")
    assert command("evaluate", "apt", "--data", path, "-m", causal, "-o", tmp_path) == 2
    assert "an output would overwrite the input" in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 5


def test_classes_that_are_left_out_are_told(causal, tmp_path, command, capsys, asked):
    rows = [(f"{split}-{name}.wav", "sfx", name, split) for split in ("tune", "dev") for name in ("cat", "dog")]
    path = manifest(tmp_path, [*rows, ("bee.wav", "sfx", "bee", "tune")])
    given = ("evaluate", "apt", "--data", path, "-m", causal, "--shots", 1, "--mixtures", 1, "--methods", "mean")
    assert command(*given, "--seconds", 2, "-o", tmp_path / "out", "--device", "cpu") == 0
    assert "are left out: bee\n" in capsys.readouterr().err
    assert command(*given, "--labels", "bee", "-o", tmp_path / "none") == 2
    assert "class 'bee' has no clips to learn from, or none to test on" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_vectors_by_a_detector(tmp_path, folder, command, capsys):
    model, detector = tiny_directory(tmp_path, ASP), tiny_detector_directory(tmp_path)
    given = ("evaluate", "apt", "--data", folder, "-m", model, "--detector", detector, "--device", "cpu", "-q")
    given += ("--mixtures", 1, "--seconds", 2, "--steps", 1, "--shots", "1", "--labels", "cat", "-o", tmp_path / "out")
    assert command(*given) == 0 and capsys.readouterr().err == ""
    settings = json.loads((tmp_path / "out/apt-settings.json").read_text())
    assert settings["detector"].startswith("'tiny' (") and settings["detector"] != settings["model"]
