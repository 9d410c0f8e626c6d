"""`ussfast prompts`: banks listed, merged, renamed, made anew."""

import json

import numpy as np
import pytest
import torch
from commands import record, run
from tiny import ASP, CAUSAL, files_in, tiny_detector_directory, tiny_directory

from ussfast import Prompt, Separator
from ussfast.prompts.bank_file import read_saved
from ussfast.prompts.files import read_bank


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two causal models, and one that takes vectors, with its detector."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("causal", "newer")):
        tiny_directory(folder, CAUSAL, seed).rename(folder / name)
    tiny_directory(folder, ASP).rename(folder / "vectors")
    tiny_detector_directory(folder).rename(folder / "vectors" / "query")
    return folder


@pytest.fixture
def banks(models, folder, capsys):
    """The working directory, with dog.bank, cat.bank and clips."""
    for seed, name in enumerate(("one", "two", "three", "cat"), 1):
        record(f"{name}.wav", 9000, seed)
    clips = ("one.wav", "two.wav", "three.wav")
    assert run(capsys, "enroll", "dog", *clips, "-o", "dog.bank", "-m", models / "causal")[0] == 0
    assert run(capsys, "enroll", "cat", "cat.wav", "-o", "cat.bank", "-m", models / "causal", "--no-clips")[0] == 0
    return folder


def names(path):
    return [prompt.name for prompt in read_bank(path).prompts]


def test_list(models, banks, capsys):
    separator = Separator(models / "causal", device="cpu")
    separator.prompts.add(Prompt("somebody's", torch.ones(separator.prompts.prompt_size), kind="enrolled"))
    separator.save_prompts("own.bank")
    code, out, err = run(capsys, "prompts", "list", "dog.bank", "cat.bank", "own.bank")
    mark = separator.mark.fingerprint[:8]
    assert (code, err) == (0, "")
    size = (banks / "dog.bank").stat().st_size
    assert out.splitlines() == [
        f"dog.bank: model 'tiny' ({mark}), {size / 1024:.1f} KiB",
        "  dog  3 clips, 3.4 s, mean, kept",
        f"cat.bank: model 'tiny' ({mark}), 0.5 KiB",
        "  cat  1 clip, 1.1 s, not kept",
        f"own.bank: model 'tiny' ({mark}), 0.5 KiB",
        "  somebody's  a vector from elsewhere",
    ]
    code, out, err = run(capsys, "prompts", "list", "dog.bank", "cat.bank", "--json")
    assert (code, err) == (0, "")
    dog, cat = json.loads(out)
    assert (dog["path"], dog["model"]["name"], dog["bytes"]) == ("dog.bank", "tiny", size)
    (prompt,) = dog["prompts"]
    kept = read_bank("dog.bank").prompts[0].clips
    assert prompt == {
        "name": "dog", "kind": "enrolled", "average": "mean", "count": 3, "seconds": 3.375, "clips": 3,
        "clip_bytes": sum(kept), "detector": None, "tuning": None,
    }  # fmt: skip
    assert (cat["prompts"][0]["clips"], cat["prompts"][0]["clip_bytes"]) == (0, 0)


def test_list_tells_the_detector(models, banks, capsys):
    assert run(capsys, "enroll", "dog", "one.wav", "-o", "v.bank", "-m", models / "vectors")[0] == 0
    out = run(capsys, "prompts", "list", "v.bank")[1]
    assert "  dog  1 clip, 1.1 s, kept, by detector 'tiny' (" in out


def test_merge_and_rename(models, banks, capsys):
    assert run(capsys, "prompts", "merge", "dog.bank", "cat.bank", "-o", "all.bank") == (0, "all.bank: dog, cat\n", "")
    assert names("all.bank") == ["dog", "cat"]
    vectors = [saved.vector for path in ("dog.bank", "cat.bank") for saved in read_saved(path)[1]]
    assert np.array_equal([saved.vector for saved in read_saved("all.bank")[1]], vectors)
    assert run(capsys, "prompts", "rename", "all.bank", "cat", "my cat") == (0, "", "")
    assert names("all.bank") == ["dog", "my cat"]
    before = (banks / "all.bank").read_bytes()
    code, _, err = run(capsys, "prompts", "rename", "all.bank", "dog", "my cat")
    assert code == 2 and "there is a prompt 'my cat' already" in err
    code, _, err = run(capsys, "prompts", "merge", "all.bank", "dog.bank", "-o", "all.bank")
    assert code == 2 and "both have a prompt 'dog'" in err
    assert (banks / "all.bank").read_bytes() == before
    code, out, _ = run(capsys, "separate", "a.wav", "--bank", "all.bank", "-p", "my cat", "-m", models / "causal")
    assert (code, out) == (0, "separated/a/my_cat.wav\n")


def test_refresh(models, banks, capsys):
    before = (banks / "dog.bank").read_bytes()
    code, out, err = run(capsys, "prompts", "refresh", "dog.bank", "-m", models / "newer", "-o", "new.bank")
    assert (code, out, err) == (0, "new.bank: dog\n", "") and (banks / "dog.bank").read_bytes() == before
    separator = Separator(models / "newer", device="cpu")
    assert read_bank("new.bank").model == separator.mark
    (prompt,) = separator.load_prompts("new.bank")
    expected = separator.prompt_of("dog", ["one.wav", "two.wav", "three.wav"]).vector
    # The clips that a bank keeps are coded with loss.
    assert torch.cosine_similarity(prompt.vector, expected, 0) > 0.9
    assert run(capsys, "prompts", "refresh", "dog.bank", "-m", models / "vectors") == (0, "dog.bank: dog\n", "")
    assert read_bank("dog.bank").model == Separator(models / "vectors", device="cpu").mark
    there = files_in(banks)
    code, out, err = run(capsys, "prompts", "refresh", "cat.bank", "-m", models / "newer", "-o", "x.bank")
    assert (code, out) == (2, "") and "no clips are kept of 'cat'" in err
    assert files_in(banks) == there


def test_nothing_half_written(models, banks, capsys):
    there = files_in(banks)
    (banks / "folder").mkdir()
    for command in (
        ("merge", "dog.bank", "cat.bank", "-o", "folder"),
        ("merge", "dog.bank", "cat.bank", "-o", "gone/x.bank"),
        ("refresh", "dog.bank", "-m", models / "newer", "-o", "folder"),
    ):
        code, out, err = run(capsys, "prompts", *command)
        assert (code, out) == (1, "") and len(err.splitlines()) == 1, err
    assert files_in(banks) == there
