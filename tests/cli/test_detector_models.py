"""Directories of detectors where commands want a model that separates, and in the list of models."""

import json

import pytest
from commands import record, run
from tiny import tiny_detector_directory

from ussfast.checkpoints import names

NO_SEPARATOR = "a detector (cnn14), which separates nothing"


@pytest.mark.parametrize("more", [[], ["-p", "dog"]])
def test_commands_that_separate_refuse_it(tmp_path, capsys, more):
    record(tmp_path / "x.wav")
    where = tiny_detector_directory(tmp_path)
    audio, out = tmp_path / "x.wav", tmp_path / "out"
    for line in (
        ["separate", audio, "-m", where],
        ["stream", audio, "-m", where, "-o", out],
        ["bench", where],
    ):
        code, said, err = run(capsys, *line, *more)
        assert code and not said and err.count("\n") == 1 and NO_SEPARATOR in err, line
    assert {path.name for path in tmp_path.iterdir()} == {"x.wav", where.name}


def test_it_is_listed_as_what_it_is(tmp_path, monkeypatch, capsys):
    tiny_detector_directory(tmp_path)
    monkeypatch.setattr(names, "EMBEDDED", tmp_path)
    row = json.loads(run(capsys, "models", "--json")[1])["models"][0]
    assert row["detector"] is True and row["labels"] == ["dog", "rain", "bell"] and row["latency_seconds"] is None
    out = run(capsys, "models")[1]
    assert "a detector: says which sounds there are" in out and "labels: dog, rain, bell" in out
