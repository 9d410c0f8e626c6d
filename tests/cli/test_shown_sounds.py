"""Sounds that are shown, not named: `ussfast enroll`, --bank, --query and --example."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from commands import load, record, run
from tiny import ASP, CAUSAL, RATE, files_in, noise, tiny_detector_directory, tiny_directory

from ussfast import Separator
from ussfast.prompts.files import read_bank


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A causal model, one that takes vectors, the same with its detector inside, and that detector."""
    folder = tmp_path_factory.mktemp("models")
    tiny_directory(folder, CAUSAL).rename(folder / "causal")
    for name in ("vectors", "carrying"):
        tiny_directory(folder, ASP).rename(folder / name)
    tiny_detector_directory(folder).rename(folder / "detector")
    tiny_detector_directory(folder).rename(folder / "carrying" / "query")
    return folder


@pytest.fixture
def clips(folder):
    """The working directory, with three recordings of dogs and one of a cat beside a.wav."""
    for seed, name in enumerate(("dogs/one", "dogs/two", "dogs/three", "cat", "dog"), 1):
        record(f"{name}.wav", 9000, seed)
    return folder


def enrolled(model, audio="a.wav", detector=None, **clips):
    """The stems of prompts that are made in Python."""
    separator = Separator(model, device="cpu", detector=detector)
    for name, paths in clips.items():
        separator.enroll(name, paths)
    return separator.separate(audio, prompts=tuple(clips))


def equal(path, stem):
    np.testing.assert_allclose(load(path), stem[0], atol=1e-6)


def test_a_bank_is_made_and_used(models, clips, capsys):
    model = models / "causal"
    code, out, err = run(capsys, "enroll", "dog", "dogs", "-o", "my.bank", "-m", model)
    assert (code, err) == (0, "")
    said = read_bank("my.bank").prompts[0]
    assert (said.name, said.count, len(said.clips)) == ("dog", 3, 3)
    separator = Separator(model, device="cpu")
    agreement = separator.enroll("dog", sorted(clips.glob("dogs/*.wav"))).origin.agreement
    assert out == f"my.bank: dog, 3 clips, 3.4 s, mean cosine {agreement.cosine:.2f}\n"
    code, out, err = run(capsys, "enroll", "cat", "cat.wav", "-o", "my.bank", "-m", model, "--no-clips")
    assert (code, out, err) == (0, "my.bank: cat, 1 clip, 1.1 s\n", "")
    assert [(p.name, len(p.clips)) for p in read_bank("my.bank").prompts] == [("dog", 3), ("cat", 0)]
    code, out, err = run(capsys, "separate", "a.wav", "-m", model, "--bank", "my.bank", "-p", "cat,speech,dog")
    assert (code, err) == (0, "") and out.split() == [f"separated/a/{name}.wav" for name in ("cat", "speech", "dog")]
    found = enrolled(model, dog=sorted(clips.glob("dogs/*.wav")), cat=["cat.wav"])
    for name in ("dog", "cat"):
        equal(f"separated/a/{name}.wav", found[name])
    # Kept as they are unless that is asked for.
    before = (clips / "my.bank").read_bytes()
    code, _, err = run(capsys, "enroll", "cat", "dog.wav", "-o", "my.bank", "-m", model)
    assert code == 2 and "has a prompt 'cat' already" in err and (clips / "my.bank").read_bytes() == before
    assert run(capsys, "enroll", "cat", "dog.wav", "-o", "my.bank", "-m", model, "--overwrite", "-q") == (0, "", "")
    assert [(p.name, len(p.clips)) for p in read_bank("my.bank").prompts] == [("dog", 3), ("cat", 1)]


def test_nothing_becomes_of_a_bank_when_a_clip_is_bad(models, clips, capsys):
    soundfile.write("silent.wav", np.zeros(9000), RATE)
    soundfile.write("short.wav", noise(1, 100)[0], RATE)
    soundfile.write("nan.wav", np.full(9000, np.nan), RATE, subtype="FLOAT")
    asked = ("-o", "my.bank", "-m", models / "causal")
    for name, says in (
        ("silent", "silent.wav: it is silent"),
        ("short", "too short"),
        ("nan", "nan.wav: contains NaN"),
    ):
        code, out, err = run(capsys, "enroll", "dog", "dog.wav", f"{name}.wav", *asked)
        assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1
        code, out, err = run(capsys, "separate", "a.wav", "--query", f"{name}.wav", "-m", models / "causal")
        assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1
    assert not [name for name in files_in(clips) if "bank" in name or "separated" in name]


def test_clips_that_disagree_are_told(models, clips, capsys, monkeypatch):
    monkeypatch.setattr("ussfast.prompts.origin.LEAST_COSINE", 1.1)
    asked = ("-o", "my.bank", "-m", models / "causal")
    code, _, err = run(capsys, "enroll", "dog", "dogs", *asked)
    assert code == 0 and len(err.splitlines()) == 1
    assert err.startswith("ussfast: warning: 'dog': the clips have little in common") and ".wav is least like" in err
    assert run(capsys, "enroll", "hound", "dogs", *asked, "-q") == (0, "", "")
    examples = [word for clip in sorted(clips.glob("dogs/*.wav")) for word in ("--example", f"dog={clip}")]
    code, _, err = run(capsys, "separate", "a.wav", *examples, *asked[2:])
    assert code == 0 and "'dog': the clips have little in common" in err
    assert run(capsys, "separate", "a.wav", *examples, *asked[2:], "-q") == (0, "", "")


def test_how_clips_are_averaged(models, clips, capsys):
    asked = ("-o", "my.bank", "-m", models / "causal")
    for how in ("mean", "robust"):
        assert run(capsys, "enroll", how, "dogs", *asked, "--average", how)[0] == 0
    assert [(prompt.name, prompt.average) for prompt in read_bank("my.bank").prompts] == [
        ("mean", "mean"),
        ("robust", "robust"),
    ]


def test_queries_and_examples(models, clips, capsys):
    model = models / "causal"
    examples = [word for name in ("one", "two") for word in ("--example", f"hound=dogs/{name}.wav")]
    code, out, err = run(
        capsys, "separate", "a.wav", "--query", "cat.wav", *examples, "--query", "dog.wav", "-m", model
    )
    assert (code, err) == (0, "") and out.split() == [f"separated/a/{name}.wav" for name in ("cat", "dog", "hound")]
    found = enrolled(model, cat=["cat.wav"], dog=["dog.wav"], hound=["dogs/one.wav", "dogs/two.wav"])
    for name in found:
        equal(f"separated/a/{name}.wav", found[name])
    # With -p they come after what is named there, unless they are named there too.
    asked = ("separate", "a.wav", "--query", "cat.wav", "--query", "dog.wav", "-m", model)
    code, out, _ = run(capsys, *asked, "-p", "speech", "-p", "dog", "-o", "x")
    assert code == 0 and out.split() == [f"x/a/{name}.wav" for name in ("speech", "dog", "cat")]
    code, out, _ = run(capsys, *asked, "--task", "denoise", "-o", "y")
    assert code == 0 and out.split() == [f"y/a/{name}.wav" for name in ("speech", "cat", "dog")]
    code, out, _ = run(capsys, *asked, "--stem", "dog", "--residual", "-o", "z")
    assert code == 0 and out.split() == [f"z/a/{name}.wav" for name in ("dog", "residual")]


@pytest.mark.parametrize("name", ["vectors", "carrying"])
def test_models_that_take_vectors(models, clips, capsys, name):
    model = models / name
    detector = ("--detector", models / "detector") if name == "vectors" else ()
    found = enrolled(model, detector=models / "detector", cat=["cat.wav"], dog=["dog.wav"])
    code, _, err = run(capsys, "separate", "a.wav", "--query", "cat.wav", "--query", "dog.wav", "-m", model, *detector)
    assert (code, err) == (0, "")
    for label in found:
        equal(f"separated/a/{label}.wav", found[label])
    assert run(capsys, "enroll", "dog", "dog.wav", "-o", "my.bank", "-m", model, *detector)[0] == 0
    # A bank has the vectors: no detector is needed.
    code, _, err = run(capsys, "separate", "a.wav", "--bank", "my.bank", "-p", "dog", "-m", model, "-o", "x")
    assert (code, err) == (0, "")
    equal("x/a/dog.wav", found["dog"])


def test_a_bank_of_another_model(models, clips, capsys):
    assert run(capsys, "enroll", "dog", "dog.wav", "-o", "my.bank", "-m", models / "causal")[0] == 0
    code, out, err = run(capsys, "separate", "a.wav", "--bank", "my.bank", "-p", "dog", "-m", models / "carrying")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert "my.bank: its prompts are those of model" in err and "ussfast prompts refresh" in err
    before = (clips / "my.bank").read_bytes()
    code, _, err = run(capsys, "enroll", "cat", "cat.wav", "-o", "my.bank", "-m", models / "carrying")
    assert code == 2 and "its prompts are those of model" in err and (clips / "my.bank").read_bytes() == before
    assert not (clips / "separated").exists()


def test_no_stem_replaces_a_clip_or_bank(models, clips, capsys):
    asked = ("a.wav", "-m", models / "causal", "--template", "{label}.wav")
    assert run(capsys, "enroll", "wolf", "dog.wav", "-o", "wolf.wav", "-m", models / "causal")[0] == 0
    kept = {path: path.read_bytes() for path in clips.rglob("*.wav")}
    for place, more, lost in (
        (".", ("--query", "dog.wav"), "dog.wav"),
        ("dogs", ("--example", "dogs=dogs/one.wav", "--example", "one=dog.wav"), "dogs/one.wav"),
        (".", ("--bank", "wolf.wav", "-p", "wolf"), "wolf.wav"),
    ):
        code, out, err = run(capsys, "separate", *asked, *more, "-o", place)
        assert (code, out) == (2, "") and f"{lost}: an output would overwrite the input" in err
    assert {path: path.read_bytes() for path in clips.rglob("*.wav")} == kept
    assert run(capsys, "separate", *asked, "--query", "dog.wav", "-o", "dogs") == (0, "dogs/dog.wav\n", "")


def test_streams(models, clips, capsys, monkeypatch):
    model, played = models / "causal", io.BytesIO()
    assert run(capsys, "enroll", "cat", "cat.wav", "-o", "my.bank", "-m", model)[0] == 0
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=played, isatty=lambda: False, flush=lambda: None))
    separator = Separator(model, device="cpu")
    separator.enroll("dog", ["dog.wav"])
    separator.enroll("cat", ["cat.wav"])
    session = separator.session(RATE, prompts=("dog", "cat"), channels=1)
    parts = [session.push(load("a.wav")[None]), session.flush()]
    found = {name: np.concatenate([part[name] for part in parts], 1)[0] for name in ("dog", "cat")}
    asked = ("a.wav", "--fast", "--query", "dog.wav", "-m", model)
    code, _, err = run(capsys, "stream", *asked)
    assert (code, err) == (0, "")
    given = np.frombuffer(played.getvalue(), "<i2")
    apart = {name: np.abs(given / 2**15 - found[name]).max() for name in found}
    assert apart["dog"] < 1e-4 < apart["cat"]
    monkeypatch.undo()
    monkeypatch.chdir(clips)
    code, out, err = run(capsys, "stream", *asked, "--bank", "my.bank", "-p", "cat", "-o", "x")
    assert (code, err) == (0, "") and out.split() == ["x/cat.wav", "x/dog.wav"]
    for name in found:
        np.testing.assert_allclose(load(f"x/{name}.wav"), found[name], atol=1e-5)
    before = (clips / "dog.wav").read_bytes()
    code, _, err = run(capsys, "stream", *asked, "-o", ".")
    assert code == 2 and "dog.wav: an output would overwrite the input" in err
    assert (clips / "dog.wav").read_bytes() == before
