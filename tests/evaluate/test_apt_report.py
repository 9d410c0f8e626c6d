"""What `ussfast evaluate apt` says of its results: averages, tables, files and pictures."""

import json

import numpy as np
import pytest

from ussfast.evaluate import apt, apt_plots, apt_report
from ussfast.evaluate.apt_cases import AptConfig, DataSet, SoundClass
from ussfast.evaluate.apt_store import Outcome

CONFIG = AptConfig(mixtures=3, seconds=2.0, steps=2)


def outcome(*values, clips=5, vector=(0.0, 0.0), kept=None):
    return Outcome(clips, 1.0, values, tuple(0.0 if v is None else v - 1 for v in values), vector, kept)


@pytest.fixture
def found(tmp_path):
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
    classes = tuple(SoundClass(name, i, (), ()) for i, name in enumerate(("cat", "d|g", "rain")))
    data = DataSet("esc50", tmp_path, classes, ("wolf",))
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
    assert "Left out, without clips of both sorts: wolf." in text


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
