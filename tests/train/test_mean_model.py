"""`ussfast train average`: the mean of models of one run."""

import pytest
import torch
from commands import run
from tiny import CAUSAL, tiny_directory

from ussfast import Separator
from ussfast.checkpoints.store import load_model, save_model
from ussfast.errors import CheckpointError, InputError
from ussfast.train.mean_model import mean_model


def again(directory, path, change, credits):
    """The same model with other weights."""
    model, info = load_model(directory)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += change
    save_model(path, model, name="later", license="none", source={"step": 3})
    (path / "CREDITS.md").write_text(credits)
    return path


def test_the_mean_of_two(directory, tmp_path, capsys):
    one, two = again(directory, tmp_path / "one", 0.0, "A.\n"), again(directory, tmp_path / "two", 0.5, "B.\n")
    assert run(capsys, "train", "average", one, two, "-o", tmp_path / "mean") == (0, f"{tmp_path / 'mean'}\n", "")
    before, after = load_model(one)[0].state_dict(), load_model(tmp_path / "mean")[0]
    for name, parameter in after.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] + 0.25, rtol=1e-3, atol=1e-3)
    info = Separator(tmp_path / "mean", device="cpu").info
    assert info.name == "later" and info.source == {"mean_of": 2, "of one": "step 3", "of two": "step 3"}
    assert (tmp_path / "mean" / "CREDITS.md").read_text() == "A.\n\nB.\n"


def test_models_of_one_name_are_told_apart(directory, tmp_path):
    models = [tmp_path / run / "model" for run in ("one", "two")]
    for path in models:
        path.parent.mkdir()
        again(directory, path, 0.0, "A.\n")
    mean_model(models, tmp_path / "mean")
    source = load_model(tmp_path / "mean")[1].source
    assert source == {"mean_of": 2, "of model 1": "step 3", "of model 2": "step 3"}


def test_what_has_no_mean(directory, tmp_path):
    with pytest.raises(InputError, match="two models at least, not of 1"):
        mean_model([directory], tmp_path / "mean")
    other = tiny_directory(tmp_path, CAUSAL)
    with pytest.raises(InputError, match="different configurations"):
        mean_model([directory, other], tmp_path / "mean")
    with pytest.raises(CheckpointError):
        mean_model([directory, tmp_path], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
