"""`ussfast evaluate apt`: what each method is given and measured on, what is kept, and what is said of it."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from apt_data import esc50, record
from tiny import ASP, CAUSAL, RATE, tiny_detector_directory, tiny_directory

from ussfast import Separator
from ussfast.errors import InputError
from ussfast.evaluate import apt, apt_plots, apt_report
from ussfast.evaluate.apt import NAME, Experiment
from ussfast.evaluate.apt_cases import AptConfig, read_cases
from ussfast.evaluate.apt_mixtures import mixtures_of
from ussfast.evaluate.apt_store import Outcome
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


def outcome(*values, clips=5, vector=(0.0, 0.0), kept=None):
    return Outcome(clips, 1.0, values, tuple(0.0 if v is None else v - 1 for v in values), vector, kept)


@pytest.fixture
def found(data):
    """Two classes: of one the robust mean is better, of the other the mean; tuning is better for one of them."""
    outcomes = {
        "cat": {"5": {
            "mean": outcome(1.0, 2.0, 3.0, vector=(0.0, 0.0)), "robust": outcome(2.0, 3.0, 4.0),
            "tuned": outcome(4.0, 5.0, 9.0, vector=(1.0, 0.0), kept=True),
        }},
        "d|g": {"5": {
            "mean": outcome(4.0, 5.0, None, clips=3, vector=(0.0, 4.0)), "robust": outcome(0.0, 1.0, None, clips=3),
            "tuned": outcome(3.0, 4.0, None, clips=3, vector=(1.0, 5.0), kept=False),
        }},
    }  # fmt: skip
    return apt.Found("'tiny' (00)", None, data, CONFIG, ("5",), ("mean", "robust", "tuned"), outcomes)


def test_averages(found):
    row = apt_report.averages(found, "5")
    assert row["mean_of_medians"] == {"mean": 3.25, "robust": 1.75, "tuned": 4.25, "enrolled": 3.75}
    assert row["over_mixtures"] == {"mean": 3.0, "robust": 2.0, "tuned": 4.0, "enrolled": 4.0}
    assert (row["gain"], row["better"], row["classes"], row["clips"]) == (0.5, 1, 2, [3, 5])
    assert apt_report.averages(found, "5", "snr")["mean_of_medians"]["mean"] == (1.0 + 3.0) / 2


def test_the_table_is_beside_the_published_averages(found):
    text = apt_report.markdown(found)
    for line in (
        "| shots | clips | mean | robust | tuned | enrolled | gain | better in | published (ESC-50) | "
        "plain mean of its classes |",
        "| 5 | 3 to 5 | 3.25 | 1.75 | 4.25 | 3.75 | +0.50 | 1 of 2 | 5.59 -> 6.68 | 4.79 -> 6.07 |",
        "| 5 | 3 to 5 | 3.00 | 2.00 | 4.00 | 4.00 | +0.00 | 1 of 2 | 5.59 -> 6.68 | 4.79 -> 6.07 |",
        "| cat | 5 | 2.00 | 3.00 | 5.00 | +2.00 | tuned | 1 |",
        r"| d\|g | 3 | 4.50 | 0.50 | 3.50 | -1.00 | enrolled | 1 |",
    ):
        assert line in text.splitlines()
    assert "not the plain mean" in text and "2 of 3 classes" in text and "3 mixtures of 2 s each" in text


def test_files(found, tmp_path):
    paths = apt_report.write(found, tmp_path)
    assert [path.name for path in paths] == list(apt_report.FILES)
    told = json.loads(paths[0].read_text())
    assert told["classes"]["cat"]["5"]["sdr"] == {"mean": 2.0, "robust": 3.0, "tuned": 5.0, "enrolled": 3.0}
    assert told["averages"]["5"]["sdr"]["gain"] == 0.5 and told["published"]["averages"]["esc50"]["full"] == [6.44, 8.5]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[2:])
    only = apt.Found("m", None, found.data, CONFIG, ("5",), ("mean",), found.outcomes)
    assert [path.name for path in apt_report.write(only, tmp_path)] == list(apt_report.FILES[:3])
    row = apt_report.averages(only, "5")
    assert row["gain"] is None and row["better"] is None and "gain" not in apt_report.table(only)


def test_bars_and_arrows_are_what_was_measured(found):
    [axes] = apt_plots.classes(found).axes
    heights = [[bar.get_height() for bar in group] for group in axes.containers]
    assert heights == [[2.0, 4.5], [3.0, 0.5], [5.0, 3.5]]
    points, shares = apt_plots.moves(found)
    began, ended = points[:, 0], points[:, 1]
    # Distances stay what they are: of two numbers each, all is seen.
    assert np.linalg.norm(ended - began, axis=1) == pytest.approx([1.0, np.sqrt(2)])
    assert np.linalg.norm(began[0] - began[1]) == pytest.approx(4.0) and sum(shares) == pytest.approx(1.0)
    assert shares[0] > shares[1]


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


def test_vectors_by_a_detector(tmp_path, folder, command, capsys):
    model, detector = tiny_directory(tmp_path, ASP), tiny_detector_directory(tmp_path)
    given = ("evaluate", "apt", "--data", folder, "-m", model, "--detector", detector, "--device", "cpu", "-q")
    given += ("--mixtures", 1, "--seconds", 2, "--steps", 1, "--shots", "1", "--labels", "cat", "-o", tmp_path / "out")
    assert command(*given) == 0 and capsys.readouterr().err == ""
    settings = json.loads((tmp_path / "out/apt-settings.json").read_text())
    assert settings["detector"].startswith("'tiny' (") and settings["detector"] != settings["model"]
