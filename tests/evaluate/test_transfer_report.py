"""Tables and pictures of the transfer study, of outcomes made by hand."""

import json

import pytest

from ussfast.evaluate import transfer_report
from ussfast.evaluate.transfer import Found, StudyConfig
from ussfast.evaluate.transfer_cells import Cell
from ussfast.evaluate.transfer_report import FILES, lines, markdown, write
from ussfast.evaluate.transfer_store import Outcome

CONFIG = StudyConfig(pretrain_steps=300, finetune_steps=100, samples=None, seconds=2.0)
EXCERPTS = 12


def outcome(level, curve=(), steps=100, mixture=1.0):
    """Every excerpt a little better than the one before; `level` dB on average."""
    rise = [0.01 * (n - (EXCERPTS - 1) / 2) for n in range(EXCERPTS)]
    scores = tuple((level + 1 + x * (1 + level), level - 1 + x * (1 + level)) for x in rise)
    validated, values = tuple(s for s, _ in curve), tuple(v for _, v in curve)
    return Outcome(
        steps, 60.0, {"choir": "x"}, 1000, validated, values, ("alto", "bass"), scores, ((mixture, mixture),) * EXCERPTS
    )


def found():
    outcomes = {
        Cell("pretrain", "none", "songs"): Outcome(300, 60.0, {"songs": "y"}, 1000),
        Cell("whole", "none", "songs", "choir"): outcome(5.0, [(50, 4.5), (100, 5.0)]),
        Cell("mask", "none", "songs", "choir"): outcome(2.5, [(50, 2.0), (100, 3.0)]),
        Cell("scratch", "none", None, "choir"): outcome(3.0, [(200, 4.0), (400, 3.5)], 400),
        Cell("whole", "pitch", "songs", "choir"): outcome(5.5),
    }
    return Found(CONFIG, "small", {"songs": "y", "choir": "x"}, outcomes)


def test_lines():
    scratch, whole, mask, pitch = lines(found())
    assert (scratch.title, scratch.gain, scratch.p, scratch.steps) == ("scratch", None, None, (200,))
    assert not scratch.star and scratch.early == (200,) and whole.early == (50,)
    assert mask.early == (100,)  # 3 dB are three quarters of 4
    assert (whole.title, whole.steps, whole.total, scratch.total) == ("songs, whole", (50,), 400, 400)
    assert whole.si_sdr == pytest.approx(5.0) and whole.gain == pytest.approx(2.0)
    assert whole.improvement == pytest.approx(4.0) and whole.p == pytest.approx(2**-EXCERPTS) and whole.star
    assert mask.gain == pytest.approx(-0.5) and mask.p > 0.99 and not mask.star and mask.steps == (None,)
    assert pitch.augmented == pytest.approx(0.5) and pitch.gain is None and pitch.steps == ()
    assert {line.excerpts for line in (scratch, whole, mask, pitch)} == {EXCERPTS}


def test_seeds_are_averaged_by_excerpt():
    """Excerpts stay the units of the test: two runs do not make two dozen of them."""
    second = found().outcomes | {
        Cell("whole", "none", "songs", "choir", 1): outcome(7.0, [(100, 9.0)]),
        Cell("scratch", "none", None, "choir", 1): outcome(1.0, [(200, 6.0)], 400),
    }
    rows = {row.title: row for row in lines(Found(CONFIG, "small", {}, second)) if row.augment == "none"}
    assert rows["songs, whole"].si_sdr == pytest.approx(6.0) and rows["songs, whole"].gain == pytest.approx(4.0)
    assert rows["songs, whole"].runs == 2 and rows["songs, whole"].excerpts == EXCERPTS
    assert rows["songs, whole"].steps == (50, 100)  # each against scratch of its own seed
    assert rows["songs, whole"].p == pytest.approx(2**-EXCERPTS)


def test_scratch_that_learned_nothing():
    """No part of less than nothing is a goal."""
    bad = {Cell("scratch", "none", None, "choir"): outcome(1.0, [(200, -2.0), (400, -1.0)], 400)}
    rows = lines(Found(CONFIG, "small", {}, found().outcomes | bad))
    assert all(row.early == row.steps == (None,) for row in rows if row.augment == "none")


def test_silent_sources_do_not_count():
    quiet = outcome(3.0)
    scores = ((None, 2.0), (None, None), *quiet.scores[2:])
    one = Outcome(100, 1.0, {}, 1, (), (), ("a", "b"), scores, scores)
    [row] = lines(Found(CONFIG, "small", {}, {Cell("scratch", "none", None, "choir"): one}))
    assert row.excerpts == EXCERPTS - 1 and row.improvement == pytest.approx(0.0)


def test_the_table():
    text = markdown(found(), lines(found()))
    assert "300 steps of pre-training, 100 of fine-tuning" in text and "excerpts of 2 s that do not overlap" in text
    assert "| none | scratch | 3.00 | +2.00 | - | - | - | 200 | 200 | 400 |" in text
    assert "| none | songs, whole | 5.00 * | +4.00 | +2.00 | 2.4e-04 | - | 50 | 50 | 400 |" in text
    assert "| none | songs, mask | 2.50 | +1.50 | -0.50 | 1.000 | - | 100 | never | 400 |" in text
    assert "| pitch | songs, whole | 5.50 | +4.50 | - | - | +0.50 | - | - | 400 |" in text
    assert "5 runs took 5 minutes" in text and f"{EXCERPTS} excerpts." in text


def test_files(tmp_path):
    transfer_report.prepare(tmp_path)
    assert [path.name for path in write(found(), tmp_path)] == list(FILES)
    data = json.loads((tmp_path / "transfer.json").read_text())
    assert [line["star"] for line in data["lines"]] == [False, True, False, False]
    curve = next(cell["curve"] for cell in data["cells"] if cell["cell"] == "whole-songs-choir-none-0")
    assert curve == [[50, 4.5], [100, 5.0]]
    for name in FILES[2:]:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_pictures_that_there_are_not(tmp_path):
    plain = Found(CONFIG, "small", {}, {Cell("scratch", "none", None, "choir"): outcome(3.0)})
    assert [path.name for path in write(plain, tmp_path)] == ["transfer.json", "transfer.md", "transfer-scores.png"]
    before = Found(CONFIG, "small", {}, {Cell("pretrain", "none", "songs"): Outcome(1, 1.0, {}, 1)})
    assert write(before, tmp_path) == []


def test_what_the_bars_show():
    from ussfast.evaluate import transfer_plots

    figure = transfer_plots.scores(lines(found()))
    [axes] = figure.axes
    heights = {bar.get_label(): [patch.get_height() for patch in bar] for bar in axes.containers}
    assert heights["songs, whole"] == pytest.approx([5.0, 5.5]) and heights["scratch"] == pytest.approx([3.0])
    assert [text.get_text() for text in axes.texts] == ["*"]
    [axes] = transfer_plots.augmentation(lines(found())).axes
    assert [[patch.get_height() for patch in bar] for bar in axes.containers] == [pytest.approx([0.5])]
    panels = transfer_plots.curves(found()).axes
    assert {tuple(line.get_ydata()) for line in panels[0].lines} == {(4.5, 5.0), (2.0, 3.0), (4.0, 3.5)}
