"""Readers of data sets, on folders that look like them in miniature."""

import shutil

import numpy as np
import pytest
import soundfile
from miniatures import EXPECTED, FSD_DEV, MAKERS, RATE, esc50, fsd50k, musdb18hq, sound, vctk_demand, wham

from ussfast.data.manifest import LICENSE_CLASSES, SPLITS, Fields
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.data.readers import READERS, _base, read_data_set
from ussfast.data.readers.fsd50k import creative_commons, labels_above, own_labels
from ussfast.data.readers.slakh import prompt_of
from ussfast.errors import InputError
from ussfast.plain import needed
from ussfast.train.mixing import NEXT

NONCOMMERCIAL = {"musdb18hq", "wham"}
OWN_SOURCES = {"bach10", "choirset"}  # their prompts are what is in them, not what models are asked for


def test_every_reader_has_its_miniature():
    assert {*MAKERS, "musdb18"} == set(READERS) and all(name == reader.name for name, reader in READERS.items())


@pytest.mark.parametrize("kind", MAKERS)
def test_what_a_data_set_becomes(scanned, tmp_path, kind):
    scan, rows = scanned(kind)
    found = {}
    for row in rows.values():
        found[row["prompt"], row["split"]] = found.get((row["prompt"], row["split"]), 0) + 1
        assert needed(Fields) | {"source", "license", "seconds", "real"} <= row.keys() and row["sample_rate"] == RATE
        assert kind in OWN_SOURCES or row["prompt"] in NEXT
        assert row["split"] in SPLITS and row["license_class"] in LICENSE_CLASSES
        assert (tmp_path / row["path"]).is_file() and not row["path"].startswith("/")
        assert row["seconds"] == pytest.approx(soundfile.info(tmp_path / row["path"]).duration)
        assert (row["license_class"] == "noncommercial") >= (kind in NONCOMMERCIAL)
    assert found == EXPECTED[kind] and scan.problems == []
    items = read_manifest(tmp_path / "manifest.json")
    assert [item.path for item in items] == [str(tmp_path / row["path"]) for row in scan.rows]
    assert len(AudioPool.load(items[:3], RATE).items) == min(3, len(items))


@pytest.mark.parametrize("kind", READERS)
def test_another_folder(tmp_path, kind):
    (tmp_path / "other").mkdir()
    sound(tmp_path / "other/some.wav")
    with pytest.raises(InputError, match=r"other is not .*: expected in it are ") as caught:
        read_data_set(kind, tmp_path / "other", tmp_path / "m.json")
    assert READERS[kind].expects in str(caught.value)
    with pytest.raises(InputError, match="gone: no such folder"):
        read_data_set(kind, tmp_path / "gone", tmp_path / "m.json")


@pytest.mark.parametrize("kind", MAKERS)
def test_one_data_set_is_not_another(tmp_path, kind):
    MAKERS[kind](tmp_path)
    for other in READERS.keys() - {kind}:
        with pytest.raises(InputError, match="expected in it are"):
            read_data_set(other, tmp_path, tmp_path / "m.json")


def test_unknown_data_sets_are_named():
    with pytest.raises(InputError, match="unknown data set 'musdb'; known are musdb18hq, musdb18, fsd50k"):
        read_data_set("musdb", None, None)


def test_bad_files_are_listed(tmp_path):
    vctk_demand(tmp_path)
    bad = {"a": b"", "b": b"no audio" * 99}
    for name, content in bad.items():
        (tmp_path / f"clean_testset_wav/p9_{name}.wav").write_bytes(content)
    soundfile.write(tmp_path / "clean_testset_wav/p9_c.wav", np.zeros(0), RATE)
    scan = read_data_set("vctk_demand", tmp_path, tmp_path / "m.json")
    reasons = {problem.path.name: problem.reason for problem in scan.problems}
    assert reasons.keys() == {"p9_a.wav", "p9_b.wav", "p9_c.wav"} and len(scan.rows) == 6
    assert reasons["p9_a.wav"] == "empty file (0 bytes)" and reasons["p9_c.wav"] == "no audio in it (0 samples)"
    assert "ormat" in reasons["p9_b.wav"]


def test_nothing_but_bad_files(tmp_path):
    esc50(tmp_path)
    for path in (tmp_path / "audio").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"none of the 2 clips of ESC-50 can be used: .*wav: no such file"):
        read_data_set("esc50", tmp_path, tmp_path / "m.json")


def test_audio_elsewhere_has_absolute_paths(tmp_path):
    wham(tmp_path / "data")
    (tmp_path / "lists").mkdir()
    rows = read_data_set("wham", tmp_path / "data", tmp_path / "lists/m.json").rows
    assert [row["path"] for row in rows] == [
        str(tmp_path / f"data/wham_noise/{part}/011a_0.5_40na.wav") for part in ("tr", "cv", "tt")
    ]


def test_songs_belong_together(scanned):
    _, rows = scanned("musdb18hq")
    bass = rows["train/A - One/bass.wav"]
    assert bass["song"] == rows["train/A - One/drums.wav"]["song"] != rows["test/B - Two/drums.wav"]["song"]
    assert bass["aligned_with"] == [f"sets/musdb18hq/train/A - One/{stem}.wav" for stem in ("drums", "other", "vocals")]
    assert rows["train/Young Griffo - Pennies/bass.wav"]["split"] == "dev"


def test_stems_that_cannot_be_read_are_not_aligned_with(tmp_path):
    musdb18hq(tmp_path)
    (tmp_path / "test/B - Two/bass.wav").write_bytes(b"")
    scan = read_data_set("musdb18hq", tmp_path, tmp_path / "m.json")
    assert len(scan.rows) == 11 and len(scan.problems) == 1
    assert all("test/B - Two/bass.wav" not in row["aligned_with"] for row in scan.rows)


def test_fsd50k_in_detail(scanned):
    scan, rows = scanned("fsd50k")
    dog = rows["FSD50K.dev_audio/1.wav"]
    assert dog["label"] == "Bark" and dog["source"] == "FSD50K: Freesound 1 by user1"
    assert (dog["license"], dog["license_class"]) == ("CC0 1.0", "permissive")
    assert rows["FSD50K.dev_audio/3.wav"]["label"] == "Bark,Rain"
    assert rows["FSD50K.dev_audio/3.wav"]["license_class"] == "noncommercial"
    assert rows["FSD50K.eval_audio/8.wav"]["license_class"] == "unknown"
    assert scan.unused == 3  # two labels and short; music; speech


def test_labels_that_others_bring_along():
    clips = [row[2].split(",") for row in FSD_DEV]
    above = labels_above(clips)
    assert above["Bark"] == {"Bark", "Dog", "Animal"} and above["Dog"] == {"Dog", "Animal"}
    assert own_labels(["Animal", "Dog", "Growling"], above) == ["Growling"]
    assert own_labels(["Dog", "Animal"], above) == ["Dog"]


@pytest.mark.parametrize(
    ("address", "license", "kind"),
    [
        ("https://creativecommons.org/licenses/by-nc-sa/3.0/", "CC BY-NC-SA 3.0", "noncommercial"),
        ("http://creativecommons.org/licenses/by-sa/4.0/", "CC BY-SA 4.0", "copyleft"),
        ("http://creativecommons.org/licenses/by/4.0/", "CC BY 4.0", "attribution"),
        ("http://creativecommons.org/licenses/sampling+/1.0/", "CC Sampling+ 1.0", "unknown"),
        ("all rights reserved", "all rights reserved", "unknown"),
    ],
)
def test_licences_of_clips(address, license, kind):
    assert creative_commons(address) == (license, kind)


def test_tables_that_are_none(tmp_path):
    esc50(tmp_path)
    table = tmp_path / "meta/esc50.csv"
    table.write_text(table.read_text().replace("src_file", "origin"))
    with pytest.raises(InputError, match=r"esc50\.csv: no column src_file; it has filename, fold"):
        read_data_set("esc50", tmp_path, tmp_path / "m.json")
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"esc50\.csv: could not be read as CSV"):
        read_data_set("esc50", tmp_path, tmp_path / "m.json")
    fsd50k(tmp_path)
    (tmp_path / "FSD50K.metadata/dev_clips_info_FSD50K.json").write_text("[1]")
    with pytest.raises(InputError, match=r"dev_clips_info_FSD50K\.json: not the table of clips"):
        read_data_set("fsd50k", tmp_path, tmp_path / "m.json")


def test_esc50_in_detail(scanned):
    _, rows = scanned("esc50")
    free, other = rows["audio/1-100-A-0.wav"], rows["audio/5-7-B-14.wav"]
    assert (free["license_class"], other["license_class"]) == ("attribution", "noncommercial")
    assert (free["fold"], free["label"], free["group"], other["split"]) == (1, "dog", "freesound 100", "dev")


def test_vctk_demand_in_detail(scanned):
    _, rows = scanned("vctk_demand")
    speech = rows["clean_trainset_28spk_wav/p226_002.wav"]
    assert (speech["speaker"], speech["split"], speech["license_class"]) == ("vctk p226", "dev", "attribution")
    assert rows["demand/TBUS/ch01.wav"]["split"] == "test" and rows["NPARK/ch01.wav"]["license_class"] == "copyleft"
    assert not [path for path in rows if "noisy" in path or "ch02" in path]


def test_fuss_from_its_clips(tmp_path):
    for name, seconds in (("1", 10.0), ("2", 10.1)):
        sound(tmp_path / "train/sound" / f"{name}.wav", seconds)
    rows = read_data_set("fuss", tmp_path, tmp_path / "m.json").rows
    assert {row["path"]: row["prompt"] for row in rows} == {"train/sound/1.wav": "sfx", "train/sound/2.wav": "sfxbg"}


def test_slakh_in_detail(scanned, tmp_path):
    _, rows = scanned("slakh")
    assert {row["song"] for row in rows.values()} == {"slakh Track00001", "slakh Track01501", "slakh Track01876"}
    assert rows["train/Track00001/stems/S02.flac"]["label"] == "my Piano"
    assert len(rows["train/Track00001/stems/S02.flac"]["aligned_with"]) == 3
    assert prompt_of("Sound effects", False) is None and prompt_of("Percussive", True) == "drums"
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in (1500, 1501, 1876):
        shutil.copytree(tmp_path / "sets/slakh/train/Track00001", flat / f"Track{number:05d}")
    shutil.copytree(flat / "Track01500", flat / "Track00009")
    (flat / "Track00009/metadata.yaml").write_text("stems: [")
    scan = read_data_set("slakh", flat, tmp_path / "m.json")
    splits = {row["song"].removeprefix("slakh Track0"): row["split"] for row in scan.rows}
    assert splits == {"1500": "train", "1501": "dev", "1876": "test"}
    assert len(scan.problems) == 1 and "no table of stems" in scan.problems[0].reason


FFMPEG = """#!/bin/sh
echo "$@" >> {folder}/arguments
case "$*" in *broken*) echo "moov atom not found" >&2; exit 1;; esac
for argument in "$@"; do case "$argument" in *.flac) cp {folder}/stem "$argument";; esac; done
"""


def test_musdb18_through_ffmpeg(tmp_path, monkeypatch):
    tools, root = tmp_path / "tools", tmp_path / "musdb18"
    for name in ("train/A - One", "test/B - Two", "test/broken"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.stem.mp4").write_bytes(b"not for libsndfile")
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(InputError, match="need ffmpeg on the PATH"):
        read_data_set("musdb18", root, tmp_path / "m.json")
    tools.mkdir()
    soundfile.write(tools / "stem", np.full(RATE, 0.1), RATE, format="FLAC")
    (tools / "ffmpeg").write_text(FFMPEG.format(folder=tools))
    (tools / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    scan = read_data_set("musdb18", root, tmp_path / "m.json")
    assert {row["path"] for row in scan.rows} == {
        f"m-audio/{song}/{stem}.flac" for song in ("train/A - One", "test/B - Two")
        for stem in ("drums", "bass", "other", "vocals")
    }  # fmt: skip
    assert [(p.path.name, p.reason) for p in scan.problems] == [("broken.stem.mp4", "ffmpeg: moov atom not found")]
    calls = (tools / "arguments").read_text().splitlines()
    order = [calls[0].index(f"-map 0:a:{track} ") for track in (1, 2, 3, 4)]
    names = [calls[0].index(f"/{stem}.flac") for stem in ("drums", "bass", "other", "vocals")]
    assert sorted([*order, *names]) == [x for pair in zip(order, names, strict=True) for x in pair]
    assert not list(tmp_path.rglob("*.new"))
    again = read_data_set("musdb18", root, tmp_path / "m.json")  # what is there is not extracted again
    assert again.rows == scan.rows and len((tools / "arguments").read_text().splitlines()) == len(calls) + 1


def test_headers_are_read_in_the_order_of_the_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(_base, "THREADS", 3)
    for number in range(20):
        sound(tmp_path / f"clean_testset_wav/p1_{number:03d}.wav", seconds=(1 + number) / 100)
    rows = read_data_set("vctk_demand", tmp_path, tmp_path / "m.json").rows
    assert [round(row["seconds"] * 100) for row in rows] == list(range(1, 21))
