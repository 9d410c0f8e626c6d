"""What a manifest marks as anything but train and dev never reaches a model: not by mixtures, clips, or credits."""

import json

import yaml
from tiny import CAUSAL, tiny_recipe

from ussfast import audio
from ussfast.models import architecture_of
from ussfast.models.config import to_dict
from ussfast.train import run
from ussfast.train.trainer import Trainer


def test_other_splits_are_never_read(manifest, tmp_path, monkeypatch):
    """Items of a split `tune` share prompts, speakers, labels and songs with those for training; none has a file."""
    rows = json.loads(manifest.read_text())["items"]
    rows = [row | {"path": str(manifest.parent / row["path"]), "source": f"for {row['split']}"} for row in rows]
    tuning = [
        row | {"path": str(tmp_path / f"{number}.wav"), "split": "tune", "source": "for tune", "seconds": 1.0}
        for number, row in enumerate(rows)
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"items": [*tuning, *rows]}))
    mix = {"rows": 5, "query": 1.0, "query_seconds": 0.2, "absent": 0.5}
    recipe = tiny_recipe(optim={"steps": 2}, run={"validate_every": 1}, mix=mix)
    recipe["model"] = {"architecture": architecture_of(CAUSAL), **json.loads(json.dumps(to_dict(CAUSAL)))}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    read, trainers = [], []

    def reading(path, *arguments):
        read.append(str(path))
        return original(path, *arguments)

    class Kept(Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            trainers.append(self)

    original = audio.read
    monkeypatch.setattr(audio, "read", reading)
    monkeypatch.setattr(run, "Trainer", Kept)
    run.train_recipe(str(tmp_path / "recipe.yaml"), tmp_path / "manifest.json", tmp_path / "run", None, "cpu")
    assert sorted(read) == sorted(row["path"] for row in rows)
    [trainer] = trainers
    assert trainer.step == 2
    for pool in (trainer.work.mixer.pool, trainer.work.mixer.picker.pool):
        assert {item.split for item in pool.items} == {"train"} and len(pool.items) == len(rows) // 2
    assert len(trainer.work.mixer.songs) == 2
    credits = (tmp_path / "run/model/CREDITS.md").read_text()
    assert "for train" in credits and "for tune" not in credits and "for dev" not in credits
