"""Batches: what is done again, what is not, whose stems are whose, and files that fail alone."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from commands import load, record, run
from tiny import tiny_directory

from ussfast.audio.naming import stem_paths

# What is there already


def test_what_is_recorded_is_skipped(separated, folder):
    record("b.wav", seed=1)
    arguments = ("a.wav", "b.wav", "-p", "speech", "-o", "out")
    assert separated(*arguments, "--skip-existing")[0] == 0
    before = os.stat("out/a/speech.wav")
    Path("out/b/speech.wav").unlink()
    code, out, _, computed = separated(*arguments, "--skip-existing")
    assert code == 0 and out.splitlines() == ["out/a/speech.wav", "out/b/speech.wav"] and computed == 1
    assert os.stat("out/a/speech.wav") == before and load("out/b/speech.wav").shape == (3000,)
    assert separated(*arguments)[3] == 2  # without the option all is done again


CHANGES = {
    "prompts": ("-p", "sfx", "--template", "{name}/{index}.wav"),
    "a prompt more": ("-p", "speech", "-p", "sfx", "--stem", "speech", "--template", "{name}/{index}.wav"),
    "settings": ("-p", "speech", "--max-attenuation", "6", "--template", "{name}/{index}.wav"),
    "windows": ("-p", "speech", "--segment", "0.3", "--template", "{name}/{index}.wav"),
    "bits": ("-p", "speech", "--bit-depth", "16", "--template", "{name}/{index}.wav"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_stems_of_another_request_are_not_taken(separated, folder, change):
    base = ("a.wav", "-o", "out", "--skip-existing")
    first = ("-p", "speech", "--template", "{name}/{index}.wav")
    assert separated(*base, *first)[3] > 0
    assert separated(*base, *first)[3] == 0
    assert separated(*base, *CHANGES[change])[3] > 0
    assert separated(*base, *CHANGES[change])[3] == 0
    assert separated(*base, *first)[3] > 0


def test_labels_of_skipped_stems_are_those_of_what_they_are(separated, folder):
    base = ("a.wav", "-o", "out", "--skip-existing", "--template", "{index}.wav", "--json")
    assert separated(*base, "-p", "speech")[0] == 0
    speech = load("out/1.wav")
    assert json.loads(separated(*base, "-p", "drums")[1])[0]["stems"] == {"drums": "out/1.wav"}
    assert np.abs(load("out/1.wav") - speech).max() > 1e-4


def test_stems_of_another_model_are_not_taken(separated, folder, model):
    other = tiny_directory(folder, seed=1)
    base = ("a.wav", "-p", "speech", "-o", "out", "--skip-existing")
    assert [separated(*base, model=m)[3] > 0 for m in (model, model, other, other)] == [True, False, True, False]
    copy = Path("copy")  # the same weights under another name are the same model
    copy.mkdir()
    for file in other.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert separated(*base, model=copy)[3] == 0


def test_stems_of_another_input_are_not_taken(separated, folder):
    record("x/a.wav")
    record("y/a.wav", seed=1)
    for path in ("x/a.wav", "y/a.wav"):  # as in data sets: the same size and time
        os.utime(path, (1e9, 1e9))
    base = ("-p", "speech", "-o", "out", "--skip-existing")
    assert separated("x/a.wav", *base)[3] > 0 and separated("y/a.wav", *base)[3] > 0
    stem = load("out/a/speech.wav")
    assert separated("y/a.wav", *base)[3] == 0
    record("y/a.wav", seed=2)
    assert separated("y/a.wav", *base)[3] > 0 and np.abs(load("out/a/speech.wav") - stem).max() > 1e-4


def test_stems_that_were_changed_are_made_anew(separated, folder):
    base = ("a.wav", "-p", "speech,sfx", "-o", "out", "--skip-existing")
    assert separated(*base)[0] == 0
    stem = load("out/a/speech.wav")
    Path("out/a/speech.wav").write_text("something else")
    assert separated(*base)[3] > 0
    np.testing.assert_array_equal(load("out/a/speech.wav"), stem)
    # Another run wrote one of two stems.
    assert separated("a.wav", "-p", "speech", "-o", "out", "--max-attenuation", "3")[0] == 0
    assert separated(*base)[3] > 0
    np.testing.assert_array_equal(load("out/a/speech.wav"), stem)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": "ussfast-stems"}', "[" * 100_000])
def test_a_damaged_record_is_none(separated, folder, content):
    base = ("a.wav", "-p", "speech", "-o", "out", "--skip-existing")
    assert separated(*base)[0] == 0
    (found,) = Path("out/a").glob(".ussfast.*.json")
    found.write_text(content)
    code, _, err, computed = separated(*base)
    assert (code, err) == (0, "") and computed > 0 and separated(*base)[3] == 0


# Outputs and inputs


def test_a_stem_never_replaces_an_input(separated, folder):
    record("a/speech.wav", seed=1)
    before = Path("a/speech.wav").read_bytes()
    code, out, err, _ = separated("a.wav", "a/speech.wav", "-p", "speech", "-o", ".")
    assert code == 2 and err == (
        "ussfast: a/speech.wav: an output would overwrite the input; choose another directory or template\n"
    )
    assert Path("a/speech.wav").read_bytes() == before and out == "speech/speech.wav\n"


def test_a_stem_never_replaces_an_input_through_links(separated, folder):
    record("stems/a/speech.wav", seed=1)
    before = Path("stems/a/speech.wav").read_bytes()
    Path("link.wav").symlink_to("stems/a/speech.wav")
    Path("other").symlink_to("stems")
    code, _, err, _ = separated("a.wav", "link.wav", "-p", "speech", "-o", "other")
    assert code == 2 and "other/a/speech.wav: an output would overwrite the input link.wav; choose" in err
    assert Path("stems/a/speech.wav").read_bytes() == before


def test_a_picture_never_replaces_an_input(separated, folder):
    os.rename("a.wav", "a.png")
    before = Path("a.png").read_bytes()
    code, _, err, computed = separated("a.png", "-p", "speech", "--plot", "a.png")
    assert code == 2 and "a.png: an output would overwrite the input" in err and computed == 0
    assert Path("a.png").read_bytes() == before


def test_the_same_name_with_other_suffixes(separated, folder):
    record("in/talk.wav", seed=1)
    record("in/talk.flac", seed=2)
    record("in/talk-wav.wav", seed=3)
    arguments = ("in", "-p", "speech", "-o", "out")
    code, out, err, _ = separated(*arguments)
    assert code == 0 and out.splitlines() == [
        "out/talk-wav/speech.wav", "out/talk-flac/speech.wav", "out/talk-wav-2/speech.wav"
    ]  # fmt: skip
    assert err == (
        "ussfast: in/talk.flac and in/talk.wav would write the same stems: "
        "{name} is talk-flac and talk-wav-2 for them\n"
    )
    assert separated(*arguments, "-q")[1:3] == ("", "")
    code, out, err, _ = separated(*arguments, "--template", "{name}.{suffix}/{label}")
    assert (code, err) == (0, "")
    assert out.split() == [f"out/{name}/speech.wav" for name in ("talk-wav.wav", "talk.flac", "talk.wav")]


def test_the_same_name_from_several_folders(separated, folder):
    record("in/a.wav", seed=1)
    record("in/deep/a.wav", seed=2)
    code, out, err, _ = separated("in/a.wav", "in/deep/a.wav", "a.wav", "-p", "speech", "-o", "out")
    assert code == 0 and out.split() == [f"out/{name}/speech.wav" for name in ("a", "a-2", "a-3")]
    assert err.endswith("{name} is a and a-2 for them; 1 more inputs are told apart in the same way\n")
    assert separated("a.wav", "a.wav", "./a.wav", "-p", "speech")[1] == "separated/a/speech.wav\n"
    code, _, err, _ = separated("in/a.wav", "a.wav", "-p", "speech", "-o", "no", "--template", "{label}.wav")
    assert code == 2 and "would write the same stems: put {name} into the template" in err
    assert not Path("no").exists()


def test_a_stem_of_another_input_is_not_replaced(separated, folder):
    record("bg1.wav", seed=1)
    record("1.wav", seed=2)
    base = ("-p", "sfx,sfxbg", "--template", "{label}{name}.wav", "-o", "out")
    assert separated("bg1.wav", *base)[0] == 0
    before = load("out/sfxbg1.wav")
    code, out, err, _ = separated("bg1.wav", "1.wav", *base)
    assert code == 2 and out.split() == ["out/sfxbg1.wav", "out/sfxbgbg1.wav"]
    assert err == "ussfast: 1.wav: out/sfxbg1.wav is a stem of bg1.wav already: choose another template\n"
    np.testing.assert_array_equal(load("out/sfxbg1.wav"), before)


def test_an_evaluation_never_replaces_its_manifest(model, folder, capsys):
    Path("evaluation.json").write_text('{"items": []}')
    code, out, err = run(capsys, "evaluate", "--data", "evaluation.json", "-m", model, "-o", ".")
    assert code == 2 and "evaluation.json: an output would overwrite the input" in err
    assert Path("evaluation.json").read_text() == '{"items": []}'


# Files that fail alone


def test_what_is_missing_does_not_stop_the_rest(separated, folder):
    Path("empty").mkdir()
    arguments = ("gone.wav", "a.wav", "empty", "-p", "speech", "-o", "out")
    code, out, err, _ = separated(*arguments)
    assert code == 2 and out == "out/a/speech.wav\n"
    assert err.splitlines()[0] == "ussfast: gone.wav: no such file" and "empty: no audio" in err.splitlines()[1]
    code, out, err, _ = separated(*arguments, "--json")
    rows = json.loads(out)
    assert [row["input"] for row in rows] == ["gone.wav", "a.wav", "empty"]
    assert [row["error"] is None for row in rows] == [False, True, False] and err.count("\n") == 2
    code, out, err, computed = separated("gone.wav", "empty", "-p", "speech")
    assert code == 2 and out == "" and err.count("\n") == 2 and computed == 0


def test_a_folder_that_cannot_be_read_does_not_stop_the_rest(separated, folder, monkeypatch):
    record("in/a.wav")
    record("in/shut/b.wav")
    scandir = os.scandir

    def shut(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", shut)
    code, out, err, _ = separated("in", "-p", "speech", "-o", "out")
    assert code == 2 and out == "out/a/speech.wav\n"
    assert err == "ussfast: in/shut: the folder could not be read: Permission denied\n"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fault_of_ours_does_not_stop_the_rest(separated, folder, monkeypatch, jobs):
    record("b.wav", seed=1)
    held = stem_paths

    def fails(directory, template, labels, name, *rest):
        if name == "a" and labels == ("speech",):
            raise ZeroDivisionError("oh")
        return held(directory, template, labels, name, *rest)

    monkeypatch.setattr("ussfast.cli.many_files.stem_paths", fails)
    code, out, err, _ = separated("a.wav", "b.wav", "-p", "speech", "-o", "out", "-j", jobs)
    assert (code, out) == (1, "out/b/speech.wav\n")
    assert err == "ussfast: a.wav: failed unexpectedly: ZeroDivisionError: oh\n"
