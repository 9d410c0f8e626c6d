"""The transfer study: which cells there are, what they are measured on, what is kept. Training is played."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE

from ussfast.checkpoints.store import save_model
from ussfast.data.stems import Piece, StemPool
from ussfast.errors import InputError, OutputError
from ussfast.evaluate import transfer
from ussfast.evaluate.metrics import si_sdr
from ussfast.evaluate.transfer import (
    DataSet,
    Stopped,
    Study,
    StudyConfig,
    Trained,
    excerpts_of,
    mixture_scores,
    scores_of,
)  # fmt: skip
from ussfast.evaluate.transfer_cells import Cell, chosen, grid, named, only, stems_of
from ussfast.models import build
from ussfast.models.chimera import ChimeraConfig
from ussfast.stft import StftConfig

CHIMERA = ChimeraConfig(
    sample_rate=RATE, stft=StftConfig(64, 32, 64, normalize="window"), hidden=4, layers=1, dropout=0.0, embedding=2,
    labels=("alto", "tenor"),
)  # fmt: skip
CONFIG = StudyConfig(pretrain_steps=6, finetune_steps=4, samples=None, seconds=0.25)
RECIPE = {"name": "tiny", "lr": 0.1}


@pytest.fixture(scope="module")
def stems(tmp_path_factory):
    root = tmp_path_factory.mktemp("stems")
    rng = np.random.default_rng(0)
    for split in ("train", "dev", "test"):
        for name in ("alto", "tenor"):
            (root / split / f"{split}1").mkdir(parents=True, exist_ok=True)
            soundfile.write(root / split / f"{split}1" / f"{name}.wav", 0.1 * rng.standard_normal(RATE), RATE)
    return root


class Played:
    """A `Train` that notes what it is asked for, and leaves a model of random weights, another one for each cell."""

    def __init__(self, stop=()):
        self.asked, self.stop = [], set(stop)

    def __call__(self, cell, data, folder, steps, start):
        self.asked.append((cell.name, data.place, steps, start and start.parent.name))
        if cell.name in self.stop:
            raise Stopped(f"{cell.name} stopped")
        torch.manual_seed(sum(map(ord, cell.name)))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(folder / "model", build(CHIMERA), name="tiny", license="none", source={}, overwrite=True)
        return Trained(folder / "model", ((2, 1.0), (steps, 2.0)))


def study(stems, folder, train, config=CONFIG, recipe=RECIPE):
    return Study([DataSet.read("songs", stems), DataSet.read("choir", stems)], config, recipe, RATE, folder, train)


CELLS = grid(["songs"], ["choir"], ["none", "pitch"], ["whole", "mask", "scratch"], 1)


def test_the_grid():
    assert [cell.name for cell in CELLS] == [
        "scratch-choir-none-0", "pretrain-songs-none-0", "whole-songs-choir-none-0", "mask-songs-choir-none-0",
        "scratch-choir-pitch-0", "pretrain-songs-pitch-0", "whole-songs-choir-pitch-0", "mask-songs-choir-pitch-0",
    ]  # fmt: skip
    assert [CONFIG.steps(cell) for cell in CELLS[:4]] == [10, 6, 4, 4]
    whole = grid(["a", "b", "c"], ["x", "y", "z"], ["none", "pitch", "stretch", "incoherent"], ["whole", "mask"], 1)
    assert len(whole) == 4 * 3 * (1 + 3 * 2)
    with_scratch = grid(["a", "b", "c"], ["x", "y", "z"], ["none"], ["whole", "mask", "scratch"], 2)
    assert len({cell.name for cell in with_scratch}) == len(with_scratch) == 2 * (3 + 3 * 7)
    assert {cell.kind for cell in grid(["a"], ["x"], ["none"], ["scratch"], 1)} == {"scratch"}


def test_some_cells_only():
    assert [cell.name for cell in only(CELLS, ["mask-*-pitch-0"])] == [
        "pretrain-songs-pitch-0", "mask-songs-choir-pitch-0"
    ]  # fmt: skip
    assert only(CELLS, []) == CELLS
    with pytest.raises(InputError, match=r"--only tail-\*: fits no cell; the first is scratch-choir-none-0"):
        only(CELLS, ["scratch*", "tail-*"])


def test_what_is_trained(stems, tmp_path):
    train = Played()
    found = study(stems, tmp_path, train).run(CELLS[:4])
    assert train.asked == [
        ("scratch-choir-none-0", stems, 10, None), ("pretrain-songs-none-0", stems, 6, None),
        ("whole-songs-choir-none-0", stems, 4, "pretrain-songs-none-0"),
        ("mask-songs-choir-none-0", stems, 4, "pretrain-songs-none-0"),
    ]  # fmt: skip
    scratch = found.outcomes[CELLS[0]]
    assert scratch.points == [(2, 1.0), (10, 2.0)] and scratch.sources == ("alto", "tenor")
    assert len(scratch.scores) == 4 == len(scratch.mixture) and not found.outcomes[CELLS[1]].scores
    # Of split test alone, and of the sum of its stems.
    test = [soundfile.read(stems / "test/test1" / f"{name}.wav", dtype="float32")[0] for name in scratch.sources]
    first = [own[: RATE // 4] for own in test]
    assert scratch.mixture[0] == pytest.approx([si_sdr(first[0] + first[1], own) for own in first], abs=1e-3)
    torch.manual_seed(sum(map(ord, CELLS[0].name)))
    with torch.no_grad():
        estimate = build(CHIMERA).eval().separate(torch.from_numpy(first[0] + first[1])[None], None)[0].numpy()
    expected = [si_sdr(estimate[i], own) for i, own in enumerate(first)]
    assert scratch.scores[0] == pytest.approx(expected, abs=1e-3)


def test_what_is_done_is_not_done_again(stems, tmp_path):
    first = Played(stop=["whole-songs-choir-none-0"])
    said = []
    part = study(stems, tmp_path, first).run(CELLS[:4], said.append)
    assert list(part.outcomes) == CELLS[:2] and said[-1] == "whole-songs-choir-none-0 stopped"
    second = Played()
    found = study(stems, tmp_path, second).run(CELLS[:4])
    assert [name for name, *_ in second.asked] == ["whole-songs-choir-none-0", "mask-songs-choir-none-0"]
    assert found.outcomes[CELLS[0]] == part.outcomes[CELLS[0]]
    later = study(stems, tmp_path, Played(stop=[CELLS[5].name])).run([*CELLS[4:], *CELLS[:4]])
    assert list(later.outcomes) == [CELLS[4], *CELLS[:4]]  # what was done before is shown, behind the stop as well
    third = Played()
    assert study(stems, tmp_path, third).run(CELLS[:4]).outcomes == found.outcomes and not third.asked


def test_another_study_in_the_folder(stems, tmp_path):
    study(stems, tmp_path, Played()).run(CELLS[:1])
    with pytest.raises(InputError, match="results of another experiment: finetune_steps is 4 there and 5 here"):
        study(stems, tmp_path, Played(), dataclasses.replace(CONFIG, finetune_steps=5))
    with pytest.raises(InputError, match=r"another experiment: recipe is .*0\.1"):
        study(stems, tmp_path, Played(), recipe=RECIPE | {"lr": 0.2})
    path = tmp_path / "cells" / f"{CELLS[0].name}.json"
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row | {"data": {"choir": "other"}}))
    with pytest.raises(InputError, match="results of other audio than choir has now"):
        study(stems, tmp_path, Played()).run(CELLS[:1])
    for text in ("{", "[]", json.dumps(row | {"steps": "many"}), json.dumps(row | {"cell": {}})):
        path.write_text(text)
        with pytest.raises(InputError, match=r"scratch-choir-none-0\.json: "):
            study(stems, tmp_path, Played()).run(CELLS[:1])


def test_folders_that_cannot_be_made(stems, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        study(stems, tmp_path / "file", Played())


def test_two_sets_of_one_name(stems, tmp_path):
    with pytest.raises(InputError, match="two data sets of the study have one name"):
        Study([DataSet.read("a", stems), DataSet.read("a", stems)], CONFIG, RECIPE, RATE, tmp_path, Played())


def test_what_is_held_out(stems, tmp_path):
    assert [p.split for p in DataSet.read("a", stems).held_out(RATE).pieces] == ["test"]
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        for name in ("a", "b"):
            place = tmp_path / "two" / split / f"{split}ing"
            place.mkdir(parents=True, exist_ok=True)
            soundfile.write(place / f"{name}.wav", rng.standard_normal(RATE) * 0.1, RATE)
    assert [p.split for p in DataSet.read("a", tmp_path / "two").held_out(RATE).pieces] == ["dev"]
    last = DataSet.read("a", tmp_path / "two/train").held_out(RATE)
    whole = StemPool.load(last.pieces, RATE)
    assert torch.equal(last.audio[0], whole.audio[0][:, -last.audio[0].shape[1] :]) and last.seconds < 0.5


def test_fingerprints_know_the_files(stems, tmp_path):
    shutil.copytree(stems, tmp_path / "copy")
    same = DataSet.read("a", stems).fingerprint
    assert DataSet.read("b", tmp_path / "copy").fingerprint == same
    soundfile.write(tmp_path / "copy/dev/dev1/alto.wav", np.ones(100), RATE)
    assert DataSet.read("a", tmp_path / "copy").fingerprint != same


def pool(seconds=1.0, silent=None):
    audio = torch.from_numpy(np.random.default_rng(0).standard_normal((2, round(seconds * RATE))).astype(np.float32))
    if silent is not None:
        audio[silent] = 0
    return StemPool(("alto", "tenor"), RATE, [Piece("p", "test", {"alto": ("a",), "tenor": ("b",)}, ())], [0.1 * audio])


def test_excerpts(monkeypatch):
    monkeypatch.setattr(transfer, "TOGETHER", 3)
    apart = list(excerpts_of(pool(), CONFIG))
    assert [len(batch) for batch in apart] == [3, 1]
    assert torch.equal(torch.cat(list(torch.cat(apart)), 1), pool().audio[0])
    drawn = dataclasses.replace(CONFIG, samples=7, seed=3)
    first, again = list(excerpts_of(pool(), drawn)), list(excerpts_of(pool(), drawn))
    assert [len(batch) for batch in first] == [3, 3, 1] and torch.equal(torch.cat(first), torch.cat(again))
    assert not torch.equal(first[0], next(excerpts_of(pool(), dataclasses.replace(drawn, seed=4))))
    with pytest.raises(InputError, match=r"no held-out recording has 0\.25 s in which every source sounds"):
        list(excerpts_of(pool(silent=1), CONFIG))


class Given(torch.nn.Module):
    """A model that gives these estimates, whatever it hears."""

    prompt_names = ()

    def __init__(self, estimates, labels):
        super().__init__()
        self.estimates = estimates
        self.config = dataclasses.make_dataclass("Config", [("labels", tuple)])(labels)

    def separate(self, audio, prompts):
        return self.estimates


def test_sources_are_found_by_their_labels():
    sources = next(excerpts_of(pool(), CONFIG))
    noisy = sources + 0.01 * torch.from_numpy(np.random.default_rng(1).standard_normal(sources.shape)).float()
    names = ("alto", "tenor")
    right = scores_of(Given(noisy, names), sources, names)
    assert np.min(right) > 15
    assert scores_of(Given(noisy.flip(1), ("tenor", "alto")), sources, names) == right
    assert np.max(scores_of(Given(noisy.flip(1), names), sources, names)) < 0
    assert scores_of(Given(noisy.flip(1), ()), sources, names) == right  # without labels, the best order counts
    with pytest.raises(InputError, match="the model separates alto, bass, and the data has alto, tenor"):
        scores_of(Given(noisy, ("alto", "bass")), sources, names)


def test_silent_sources_have_no_score():
    silent = torch.stack([pool().audio[0][:, :2000], pool(silent=1).audio[0][:, :2000]])
    scores = scores_of(Given(silent + 0.01, ("alto", "tenor")), silent, ("alto", "tenor"))
    assert [[value is None for value in row] for row in scores] == [[False, False], [False, True]]
    assert [[value is None for value in row] for row in mixture_scores(silent)] == [[False, False], [False, True]]


def test_names_of_data_sets():
    assert named(["a=x", "b_2=y=z"], "--pretrain") == {"a": Path("x"), "b_2": Path("y=z")}
    for text in ("x", "=x", "a=", "a-b=x", "a/b=c"):
        with pytest.raises(InputError, match="--pretrain .*: give NAME=PATH"):
            named([text], "--pretrain")
    with pytest.raises(InputError, match="there is already one with the name a"):
        named(["a=x", "a=y"], "--downstream")


def test_some_stems_only(stems):
    assert stems_of(["a=x, y,x", "b=y,z"], ["a", "b", "c"]) == {"a": ("x", "y"), "b": ("y", "z")}
    with pytest.raises(InputError, match="--stems d=x,y: is not of a data set; those are a, b"):
        stems_of(["d=x,y"], ["a", "b"])
    for text in ("a", "a=", "a=x,x"):
        with pytest.raises(InputError, match=f"--stems {text}: give NAME=STEM,STEM"):
            stems_of([text], ["a"])
    assert DataSet.read("a", stems, ("tenor", "alto")).fingerprint == DataSet.read("a", stems).fingerprint
    with pytest.raises(InputError, match="no piece has all of alto, bass"):
        DataSet.read("a", stems, ("alto", "bass"))


def test_names_from_lists():
    assert chosen("pitch, none,pitch", ("none", "pitch"), "--augment") == ("none", "pitch")
    with pytest.raises(InputError, match="--augment loud: is not one of none, pitch"):
        chosen("none,loud", ("none", "pitch"), "--augment")
    with pytest.raises(InputError, match="--augment: names none of none, pitch"):
        chosen(" ,", ("none", "pitch"), "--augment")


def test_names_of_cells():
    assert Cell("whole", "none", "songs", "choir", 2).name == "whole-songs-choir-none-2"
    assert Cell("whole", "none", "songs", "choir", 2).before == Cell("pretrain", "none", "songs", None, 2)
    assert Cell("scratch", "none", None, "choir").before is None
