"""`ussfast evaluate transfer` as a whole, on miniature stems with a tiny model; what is wrong with its arguments."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import RATE

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))
from commands import run

from ussfast.evaluate.transfer_report import FILES
from ussfast.train.transfer import Transfer

RECIPE = """
kind: transfer
name: tiny
model:
  architecture: chimera
  sample_rate: 8000
  stft: {n_fft: 64, hop: 32, window_length: 64, normalize: window}
  hidden: 4
  layers: 1
  dropout: 0.0
  embedding: 2
optim: {steps: 4, lr: 0.01, weight_decay: 0.0, warmup: 0, schedule: plateau, ema: 0.0, autoclip_percentile: 10}
stems: {seconds: 0.1, batch: 2}
objective: {loss: chimera, alpha: 0.01}
run: {log_every: 2, validate_every: 2, validate_items: 4, checkpoint_every: 1, average: false, tensorboard: false}
"""


def stems(root, names, splits):
    rng = np.random.default_rng(len(names))
    for split in splits:
        for name in names:
            place = root / split / f"piece {split}"
            place.mkdir(parents=True, exist_ok=True)
            soundfile.write(place / f"{name}.wav", 0.1 * rng.standard_normal(RATE // 2), RATE)
    return root


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    (root / "tiny.yaml").write_text(RECIPE)
    stems(root / "songs", ("bass", "drums", "other"), ("train", "valid"))
    stems(root / "choir", ("alto", "tenor"), ("train", "valid", "test"))
    return root


def arguments(places, output, *more):
    sets = ["--pretrain", f"songs={places / 'songs'}", "--downstream", f"choir={places / 'choir'}"]
    fixed = ["--recipe", places / "tiny.yaml", "--pretrain-steps", 3, "--finetune-steps", 2, "--device", "cpu"]
    return ["evaluate", "transfer", *sets, *fixed, "-o", output, "--apart", "--seconds", "0.1", *more]


SOME = ("--augment", "none,incoherent")


def cells(folder):
    found = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "cells").iterdir())}
    return {name: {key: value for key, value in row.items() if key != "seconds"} for name, row in found.items()}


@pytest.fixture(scope="module")
def whole(places, tmp_path_factory):
    """The folder of a study that went through at once."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        from ussfast.cli.main import main

        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments(places, folder, *SOME, "-q")])
    assert not end.value.code
    return folder


def test_the_study(whole):
    found = cells(whole)
    assert list(found) == [
        "mask-songs-choir-incoherent-0", "mask-songs-choir-none-0", "pretrain-songs-incoherent-0",
        "pretrain-songs-none-0", "scratch-choir-incoherent-0", "scratch-choir-none-0",
        "whole-songs-choir-incoherent-0", "whole-songs-choir-none-0",
    ]  # fmt: skip
    assert {name.split("-")[0]: row["steps"] for name, row in found.items()} == {
        "mask": 2, "pretrain": 3, "scratch": 5, "whole": 2
    }  # fmt: skip
    assert {len(row["scores"]) for name, row in found.items() if "pretrain" not in name} == {5}
    assert found["scratch-choir-none-0"]["validated"] == [2, 4, 5] and not found["pretrain-songs-none-0"]["scores"]
    assert {path.name for path in whole.iterdir()} == {*FILES, "cells", "runs", "transfer-settings.json"}
    table = (whole / "transfer.md").read_text()
    assert table.count("| none | songs, ") == table.count("| incoherent | songs, ") == 2


def test_conditions_differ(whole):
    """What is drawn for the others is not what "none" draws, and a seed is another run."""
    found = cells(whole)
    for kind in ("scratch-choir", "whole-songs-choir"):
        assert found[f"{kind}-none-0"]["scores"] != found[f"{kind}-incoherent-0"]["scores"]


def test_only_the_mask_learns_where_it_is_to(whole):
    from ussfast.checkpoints.store import load_model

    before, mask, all_of_it = (
        load_model(whole / "runs" / f"{name}-none-0" / "model")[0].state_dict()
        for name in ("pretrain-songs", "mask-songs-choir", "whole-songs-choir")
    )
    for name, value in before.items():
        if name.startswith("rnn."):
            assert value.equal(mask[name]) and not value.equal(all_of_it[name])


def test_interrupted_and_resumed(places, whole, tmp_path, monkeypatch, capsys):
    """Stopped in the middle of runs, by hand and by the clock, the study comes to the same results."""
    draw, drawn = Transfer.batch, []

    def batch(self):
        drawn.append(1)
        if len(drawn) in (4, 13):  # within the first run, and in one of those that begin with another model
            raise KeyboardInterrupt
        return draw(self)

    monkeypatch.setattr(Transfer, "batch", batch)
    asked = arguments(places, tmp_path / "study", *SOME, "-q")
    assert run(capsys, *asked)[0] == 130
    assert cells(tmp_path / "study") == {}
    assert run(capsys, *asked)[0] == 130
    assert len(cells(tmp_path / "study")) > 0
    code, out, _ = run(capsys, *asked, "--max-minutes", "0")
    assert code == 0 and len(cells(tmp_path / "study")) < 8
    assert run(capsys, *asked)[0] == 0
    assert cells(tmp_path / "study") == cells(whole)


def test_seeds_and_cells_are_added(places, whole, capsys):
    """More of a study that is there; what is there stays."""
    before = {path.name: path.stat().st_mtime_ns for path in (whole / "cells").iterdir()}
    more = arguments(places, whole, "--augment", "none", "--seeds", 2, "--only", "scratch-*")
    code, out, _ = run(capsys, *more, "--json")
    assert code == 0, out
    [row] = json.loads(out)
    assert (row["kind"], row["runs"], row["p"], row["star"]) == ("scratch", 2, None, False)
    after = {path.name: path.stat().st_mtime_ns for path in (whole / "cells").iterdir()}
    assert after.keys() - before.keys() == {"scratch-choir-none-1.json"} and before.items() <= after.items()
    first, second = (cells(whole)[f"scratch-choir-none-{seed}"] for seed in (0, 1))
    assert first["mixture"] == second["mixture"] and first["scores"] != second["scores"]


def test_some_stems_of_a_set(places, tmp_path, capsys):
    """Pre-training on two of three; the model has two sources then."""
    from ussfast.checkpoints.store import load_model

    asked = arguments(places, tmp_path / "study", "-q", "--stems", "songs=bass,other", "--only", "pretrain-*-none-0")
    assert run(capsys, *asked)[0] == 0
    config = load_model(tmp_path / "study/runs/pretrain-songs-none-0/model")[0].config
    assert config.labels == ("bass", "other")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--augment", "loud"], "--augment loud: is not one of none, pitch, stretch, incoherent"),
        (["--train", "tail"], "--train tail: is not one of whole, mask, head, lora, scratch"),
        (["--pretrain", "choir"], "--pretrain choir: give NAME=PATH"),
        (["--downstream", "songs=x"], "--downstream songs: is the name of a --pretrain, too"),
        (["--downstream", "more=nowhere.json"], "nowhere.json"),
        (["--stems", "voices=a,b"], "--stems voices=a,b: is not of a data set; those are songs, choir"),
        (["--stems", "songs=bass,violin"], "no piece has all of bass, violin"),
        (["--recipe", "default"], "is of kind 'separation': it is for 'ussfast train'"),
        (["--recipe", "none"], "no recipe none"),
        (["--only", "tail-*"], "--only tail-*: fits no cell"),
        (["--seconds", "60"], "no held-out recording has 60 s"),
    ],
)
def test_wrong_arguments(places, tmp_path, capsys, more, says):
    code, out, err = run(capsys, *arguments(places, tmp_path / "study", "-q", *more))
    assert code == 2 and says in err and len(err.splitlines()) == 1 and not out


def test_data_that_is_none(places, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    asked = arguments(places, tmp_path / "study", "-q", "--downstream", f"empty={tmp_path / 'empty'}")
    code, _, err = run(capsys, *asked)
    assert code == 2 and "neither a manifest with songs nor a folder of stems" in err
    assert not (tmp_path / "study").exists()


def test_scratch_alone_needs_nothing_to_begin_with(places, tmp_path, capsys):
    asked = ["evaluate", "transfer", "--downstream", f"choir={places / 'choir'}", "-o", tmp_path / "study"]
    code, _, err = run(capsys, *asked)
    assert code == 2 and "give --pretrain NAME=PATH, or --train scratch alone" in err
