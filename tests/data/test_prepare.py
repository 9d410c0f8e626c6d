"""`ussfast train` and its commands: a recipe without a command's name, manifests, joined manifests, packs."""

import json

import numpy as np
import pytest
import soundfile
from miniatures import MAKERS, esc50, wham
from tiny import RATE, tiny_manifest

from ussfast.cli.main import main
from ussfast.data import prepare
from ussfast.data.manifest import PROMPTS, STEMS, merge, read_rows, write_rows
from ussfast.data.pool import read_manifest
from ussfast.data.readers import READERS
from ussfast.errors import InputError, OutputError
from ussfast.train.mix_config import MixConfig
from ussfast.train.mixing import NEXT, Mixer


@pytest.fixture
def run(capsys):
    def command(*arguments):
        """Exit code, standard output, standard error."""
        with pytest.raises(SystemExit) as exit:
            main([str(a) for a in arguments])
        return (exit.value.code or 0, *capsys.readouterr())

    return command


def test_help(run):
    code, out, _ = run("train", "--help")
    assert code == 0 and "RECIPE --data MANIFEST" in out
    assert all(f"\n  {command} " in out for command in ("run", "manifest", "pack"))
    for command in ("run", "manifest", "pack"):
        code, text, _ = run("train", command, "--help")
        assert code == 0 and text.startswith("Usage:")
    listed = " ".join(run("train", "manifest", "--help")[1].split())
    assert all(kind in listed for kind in READERS)


@pytest.mark.parametrize("order", [("gone", "--data"), ("run", "gone", "--data"), ("--data",)])
def test_a_recipe_needs_no_command(run, tmp_path, order):
    rest = (tmp_path / "m.json", "-o", tmp_path / "run") + (() if "gone" in order else ("gone",))
    code, out, err = run("train", *order, *rest)
    assert (code, out) == (2, "") and "no recipe gone: give a YAML file" in err


def test_prompts_are_those_of_the_mixer():
    assert set(PROMPTS) == set(NEXT) and set(STEMS) < set(PROMPTS)


def test_a_manifest_on_the_command_line(run, tmp_path):
    wham(tmp_path / "noise")
    (tmp_path / "noise/wham_noise/tt/bad.wav").write_bytes(b"")
    code, out, err = run("train", "manifest", "wham", tmp_path / "noise", tmp_path / "m.json")
    assert code == 0 and f"{tmp_path / 'm.json'}: 3 items" in out and "1 files could not be used" in out
    assert err == f"ussfast: left out: {tmp_path / 'noise/wham_noise/tt/bad.wav'}: empty file (0 bytes)\n"
    assert [i.split for i in read_manifest(tmp_path / "m.json")] == ["train", "dev", "test"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "noise"]


def test_many_bad_files_are_counted(run, tmp_path):
    wham(tmp_path)
    for number in range(14):
        (tmp_path / f"wham_noise/tr/{number}.wav").write_bytes(b"")
    _, _, err = run("train", "manifest", "wham", tmp_path, tmp_path / "m.json")
    assert len(err.splitlines()) == 11 and err.endswith("left out: 4 more files, 14 in all\n")


def test_clips_that_fit_no_prompt_are_counted(run, tmp_path):
    MAKERS["fsd50k"](tmp_path)
    assert "\n3 clips fit no prompt\n" in run("train", "manifest", "fsd50k", tmp_path, tmp_path / "m.json")[1]


def test_joined_manifests(run, tmp_path):
    for name, maker in (("a", wham), ("b", esc50)):
        (tmp_path / name).mkdir()
        maker(tmp_path / name)
        kind = {"a": "wham", "b": "esc50"}[name]
        assert run("train", "manifest", kind, tmp_path / name, tmp_path / name / "m.json")[0] == 0
    both = tmp_path / "both.json"
    code, out, err = run("train", "manifest", "merge", tmp_path / "a/m.json", tmp_path / "b/m.json", both)
    assert (code, err) == (0, "") and "both.json: 5 items" in out
    rows = read_rows(both)
    assert rows[0]["path"] == "a/wham_noise/tr/011a_0.5_40na.wav" and rows[3]["path"] == "b/audio/1-100-A-0.wav"
    assert len({item.path for item in read_manifest(both) if soundfile.info(item.path).frames}) == 5
    again = tmp_path / "again.json"  # what both have is taken once
    assert run("train", "manifest", "merge", both, tmp_path / "b/m.json", again)[0] == 0
    assert read_rows(again) == rows


def test_songs_of_one_name_stay_apart(tmp_path):
    row = {"prompt": "bass", "split": "train", "license_class": "unknown", "sample_rate": RATE, "song": "one"}
    for name in ("x", "y", "z"):
        (tmp_path / name).mkdir()
        stems = [row | {"path": f"{n}.wav", "aligned_with": [f"{1 - n}.wav"]} for n in range(2)]
        write_rows(tmp_path / name / "m.json", stems)
    rows = merge([tmp_path / name / "m.json" for name in ("x", "y", "z")], tmp_path / "m.json")
    assert [r["song"] for r in rows] == ["one", "one", "one #2", "one #2", "one #3", "one #3"]
    assert rows[5]["aligned_with"] == ["z/0.wav"]


def test_several_items_of_one_stem(tmp_path, monkeypatch):
    from ussfast.data.pool import AudioPool

    manifest = tiny_manifest(tmp_path, seconds=0.5)
    rows = read_rows(manifest)
    second = [row | {"path": "second.wav"} for row in rows if row["path"] == "train-other-0.wav"]
    soundfile.write(tmp_path / "second.wav", np.full(RATE // 2, 0.1), RATE)
    write_rows(manifest, [*rows, *second])
    items = [item for item in read_manifest(manifest) if item.split == "train"]
    mixer = Mixer(AudioPool.load(items, RATE), MixConfig(seconds=0.2, rows=4, aligned=1.0), np.random.default_rng(0))
    assert len(mixer.songs) == 2 and len(mixer.by_prompt["other"]) == 3
    for _ in range(10):
        assert mixer.batch().mixture.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("manifest", "wham", "a"), "give the folder of the data set and the manifest to write, got 1 paths"),
        (("manifest", "wham", "a", "b", "c"), "got 3 paths"),
        (("manifest", "merge", "a", "b"), "give two or more manifests and the one to write, got 2 paths"),
        (("manifest", "merge", "a", "b", "c"), "a: no such manifest"),
        (("manifest", "wahm", "a", "b"), "unknown data set 'wahm'; known are musdb18hq"),
        (("manifest", "wham", "a", "b"), "a: no such folder"),
        (("pack", "a", "b", "--max-size", "much"), "a size is a number with KB"),
        (("pack", "a", "b", "--max-size", "1MB"), "a: no such manifest"),
        (("pack", "a", "b", "--max-size", "1MB", "--license-class", "free"), "unknown: free; known are permissive"),
    ],
)
def test_wrong_arguments(run, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("train", *arguments)
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1


def test_a_manifest_that_cannot_be_written(tmp_path):
    wham(tmp_path / "noise")
    with pytest.raises(OutputError, match="cannot be written"):
        prepare.write_manifest_of("wham", [tmp_path / "noise", tmp_path / "gone/m.json"])


def test_rows_that_cannot_be_read(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"items": [{"path": "a.wav"}]}))
    with pytest.raises(InputError, match="is not a manifest .*lacks license_class, prompt"):
        read_rows(tmp_path / "m.json")


def test_a_pack_on_the_command_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr("ussfast.data.pack.SAMPLED_UNITS", 2)
    manifest = tiny_manifest(tmp_path, seconds=0.5)
    (tmp_path / "dev-sfx-1.wav").write_bytes(b"")
    arguments = ("train", "pack", manifest, tmp_path / "pack", "--max-size", "36KB", "--split", "dev")
    code, out, err = run(*arguments, "--license-class", "permissive", "--rate", 8000)
    assert code == 0 and err == f"ussfast: left out: {tmp_path / 'dev-sfx-1.wav'}: empty file (0 bytes)\n"
    rows = read_rows(tmp_path / "pack/manifest.json")
    assert 3 < len(rows) < 13 and {row["split"] for row in rows} == {"dev"}
    assert f"{tmp_path / 'pack'}: {len(rows)} items, 0.0" in out and "of 0.03 MiB, Vorbis quality loss 0.8" in out
    speech = next(line.split() for line in out.splitlines() if line.startswith("speech"))
    assert int(speech[1]) + int(speech[3]) == 2
    assert run(*arguments)[0] == 2 and run(*arguments, "--overwrite")[0] == 0
