"""`ussfast separate --everything`."""

import json

import numpy as np
import pytest
import soundfile
from commands import load, record, run
from tiny import ASP, CAUSAL, RATE, files_in, noise, tiny_detector_directory, tiny_directory

from ussfast import Detector, Separator
from ussfast.checkpoints import names
from ussfast.detect.events import Event

SOUNDS = {"a": {"rain": (0.0, 2.0, 0.7), "dog": (2.5, 4.0, 0.9)}, "b": {"bell": (1.0, 3.0, 0.6)}, "quiet": {}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A causal model, one that takes vectors and carries its detector, and that detector alone."""
    folder = tmp_path_factory.mktemp("models")
    tiny_directory(folder, CAUSAL).rename(folder / "causal")
    tiny_directory(folder, ASP).rename(folder / "vectors")
    tiny_detector_directory(folder).rename(folder / "detector")
    tiny_detector_directory(folder).rename(folder / "vectors" / "query")
    return folder


@pytest.fixture
def heard(folder, monkeypatch):
    """The working directory, with recordings in which detectors hear SOUNDS."""
    for seed, name in enumerate(SOUNDS):
        record(f"{name}.wav", 5 * RATE, seed)

    def detect(self, path, sample_rate=None, *, threshold):
        sounds = SOUNDS[path.stem]
        return [Event(label, *where) for label, where in sounds.items() if where[2] > threshold]

    monkeypatch.setattr(Detector, "detect", detect)
    return folder


def test_every_sound_becomes_a_stem(models, heard, capsys):
    asked = ("separate", "a.wav", "b.wav", "--everything", "-m", models / "causal", "--detector", models / "detector")
    code, out, err = run(capsys, *asked)
    stems = {"a": ("dog", "rain", "residual"), "b": ("bell", "residual")}
    assert (code, err) == (0, "")
    assert out.split() == [f"separated/{name}/{stem}.wav" for name, labels in stems.items() for stem in labels]
    separator, detector = Separator(models / "causal", device="cpu"), Detector(models / "detector")
    for name in stems:
        whole = separator.separate_everything(heard / f"{name}.wav", detector=detector)
        for label in (*whole.labels, "residual"):
            stem = whole.residual if label == "residual" else whole[label]
            np.testing.assert_allclose(load(f"separated/{name}/{label}.wav"), stem[0], atol=1e-5)
    # The same once more has nothing to do, and all at once gives the same.
    code, out, _ = run(capsys, *asked, "--skip-existing", "--json")
    assert code == 0 and [(row["rtf"], list(row["stems"])) for row in json.loads(out)] == [
        (None, list(labels)) for labels in stems.values()
    ]
    assert run(capsys, *asked, "-j", 2, "-o", "x", "-q") == (0, "", "")
    assert np.array_equal(load("x/b/bell.wav"), load("separated/b/bell.wav"))


def test_what_is_written_of_it(models, heard, capsys):
    asked = ("separate", "a.wav", "--everything", "-m", models / "causal", "--detector", models / "detector")
    for more, labels in {
        ("--no-residual",): ("dog", "rain"),
        ("--stem", "rain"): ("rain",),
        ("--stem", "rain", "--residual"): ("rain", "residual"),
        ("--top", 1): ("dog", "residual"),
        ("--threshold", 0.8): ("dog", "residual"),
    }.items():
        code, out, err = run(capsys, *asked, *more, "-o", "x")
        assert (code, err) == (0, "") and out.split() == [f"x/a/{label}.wav" for label in labels]
    code, out, err = run(capsys, *asked, "--stem", "cat", "-o", "y")
    assert (code, out) == (2, "") and "no stem 'cat'; there are dog, rain, residual" in err
    assert not (heard / "y").exists()


def test_nothing_found_is_an_error_of_that_file(models, heard, capsys):
    asked = ("--everything", "-m", models / "causal", "--detector", models / "detector", "--no-residual")
    code, out, err = run(capsys, "separate", "quiet.wav", "b.wav", "missing.wav", *asked)
    assert (code, out) == (2, "separated/b/bell.wav\n")
    quiet, missing = err.splitlines()
    assert quiet == "ussfast: quiet.wav: no sound that detector 'tiny' knows has a score above 0.5"
    assert missing.startswith("ussfast: missing.wav: no such file")
    assert not [name for name in files_in(heard) if "quiet/" in name]
    code, out, _ = run(capsys, "separate", "quiet.wav", *asked, "--json")
    (row,) = json.loads(out)
    assert code == 2 and row["stems"] == {} and row["error"].startswith("quiet.wav: no sound")


def test_bad_audio_is_an_error_of_that_file(models, heard, capsys):
    bad = noise(1, 2 * RATE)
    bad[0, 9000] = np.nan
    soundfile.write("a.wav", bad.T, RATE, subtype="FLOAT")
    code, out, err = run(
        capsys, "separate", "a.wav", "b.wav", "--everything", "-m", models / "causal", "--detector", models / "detector"
    )
    assert code == 2 and out.split() == ["separated/b/bell.wav", "separated/b/residual.wav"]
    assert err.startswith("ussfast: a.wav: contains NaN") and len(err.splitlines()) == 1


def test_which_detector(models, heard, capsys, monkeypatch):
    asked = ("separate", "b.wav", "--everything", "-q", "-m")
    monkeypatch.setattr(names, "EMBEDDED", models)  # as if it came with the package
    used = []
    plain = Detector.detect

    def detect(self, *arguments, **settings):
        used.append(self.info.path.relative_to(models))
        return plain(self, *arguments, **settings)

    monkeypatch.setattr(Detector, "detect", detect)
    assert run(capsys, *asked, models / "causal")[0] == 0
    assert run(capsys, *asked, models / "vectors")[0] == 0
    assert run(capsys, *asked, models / "vectors", "--detector", models / "detector")[0] == 0
    assert [str(path) for path in used] == ["detector", "vectors/query", "detector"]
    monkeypatch.setattr(names, "EMBEDDED", heard)
    code, out, err = run(capsys, *asked, models / "causal")
    assert (code, out) == (2, "") and err.startswith("ussfast: --everything needs a detector, and none comes with")
    code, out, err = run(capsys, *asked, models / "causal", "--detector", models / "causal")
    assert (code, out) == (2, "") and "a model that separates, not a detector" in err
