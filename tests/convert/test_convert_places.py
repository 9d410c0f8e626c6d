"""Where a converted model goes: the source is looked at first, folders are made only for a model."""

import pytest
import torch
import yaml
from golden_io import golden_model, settings
from test_convert import TUSS, published, refused

from ussfast.checkpoints.store import load_model
from ussfast.convert import convert
from ussfast.errors import OutputError


@pytest.fixture
def source(tmp_path):
    """A published checkpoint that is damaged."""
    (tmp_path / "hparams.yaml").write_text(yaml.safe_dump(settings(TUSS)))
    (tmp_path / "model.pth").write_text("damaged")
    return tmp_path / "model.pth"


def test_the_source_is_checked_before_the_target(tmp_path):
    refused(tmp_path / "none", tmp_path / "no/such/place", "none: no such file or directory")


def test_folders_above_the_target_are_made_for_a_model_only(source, tmp_path):
    refused(source, tmp_path / "models/deep/out", "damaged")
    assert not (tmp_path / "models").exists()
    torch.save(published(TUSS), source)
    convert(source, tmp_path / "models/deep/out")
    assert load_model(tmp_path / "models/deep/out")[0].config == golden_model(TUSS).config


def test_a_file_in_the_way(source, tmp_path):
    torch.save(published(TUSS), source)
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match="taken: cannot be used for output"):
        convert(source, tmp_path / "taken/out")
