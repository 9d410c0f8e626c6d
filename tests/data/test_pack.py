"""Packs: sizes that are kept to, what is dropped, and audio that comes back."""

import json
import time

import numpy as np
import pytest
import soundfile
from tiny import STEMS, TONE, tiny_manifest

from ussfast.audio.ogg import BLOCK_FRAMES, encode
from ussfast.data import pack as packing
from ussfast.data.manifest import read_rows, write_rows
from ussfast.data.pack import LOSSES, PackSettings, pack, parse_size
from ussfast.data.pack_order import keep_order, units_of
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.errors import InputError, OutputError

RATE = 16000


def noise(path, seconds, rate, seed, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels)), rate)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """16 clips of speech of 4 speakers, 16 effects of 4 labels, 3 songs: train, and a little dev."""
    folder = tmp_path_factory.mktemp("source")
    rows = []

    def add(path, prompt, seconds, split="train", license_class="permissive", rate=RATE, **facts):
        noise(folder / path, seconds, rate, len(rows), channels=1 + (prompt == "sfx"))
        row = {"path": path, "prompt": prompt, "split": split, "license_class": license_class, "sample_rate": rate}
        rows.append(row | {"seconds": seconds, "license": "CC0", "source": "noise", "peak": 0.4} | facts)

    for n in range(16):
        add(f"s/{n}.wav", "speech", 1, speaker=f"speaker {n % 4}", rate=8000)
        add(f"e/{n}.wav", "sfx", 1, label=f"label {n % 4}", license_class="free-use" if n < 5 else "attribution")
    for song in range(3):
        names = {stem: f"music {song}/{stem}.wav" for stem in STEMS}
        for stem, path in names.items():
            others = [other for other in names.values() if other != path]
            add(path, stem, 1, song=f"song {song}", aligned_with=others, rate=48000)
    add("d/0.wav", "speech", 1, split="dev", speaker="speaker d")
    write_rows(folder / "manifest.json", rows)
    return folder / "manifest.json"


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch):
    monkeypatch.setattr(packing, "SAMPLED_UNITS", 6)  # enough for these few prompts


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def labels(rows):
    return {(r["prompt"], r["split"], r.get("song") or r.get("speaker") or r.get("label")) for r in rows}


@pytest.mark.parametrize("size", ["9000", "60KB", "0.25MiB", "370KB", "410000"])
def test_the_size_is_kept_to(source, tmp_path, size):
    limit = parse_size(size)
    report = pack(source, tmp_path / "pack", PackSettings(limit))
    assert size_of(tmp_path / "pack") == report.size_bytes <= limit
    rows = read_rows(tmp_path / "pack/manifest.json")
    assert rows == report.kept and len(report.kept) + len(report.dropped) == len(read_rows(source))
    assert {p.relative_to(tmp_path / "pack").as_posix() for p in (tmp_path / "pack").rglob("*.ogg")} == {
        row["path"] for row in rows
    }
    if report.dropped:  # then quality was given up first, and the room is used
        assert report.loss == LOSSES[-1] and report.size_bytes > 0.9 * limit - 9000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pack"]
    AudioPool.load(read_manifest(tmp_path / "pack/manifest.json"), 8000)


def test_less_room_is_less_quality(source, tmp_path):
    losses = []
    for number, size in enumerate(("1MiB", "430KB", "390KB", "200KB")):
        report = pack(source, tmp_path / str(number), PackSettings(parse_size(size)))
        losses.append(report.loss)
    assert losses == sorted(losses) and losses[0] == LOSSES[0] and losses[-1] == LOSSES[-1]
    assert len(set(losses)) >= 3


def test_a_wrong_guess_of_the_size_is_made_good(source, tmp_path, monkeypatch):
    whole = pack(source, tmp_path / "a", PackSettings(2**22))
    assert whole.loss == LOSSES[0] and not whole.dropped
    monkeypatch.setattr(packing._Packer, "_estimate", lambda self, rates: 0.0)
    report = pack(source, tmp_path / "b", PackSettings(whole.size_bytes - 1))
    assert report.loss == LOSSES[1] and not report.dropped and size_of(tmp_path / "b") < whole.size_bytes
    exact = pack(source, tmp_path / "c", PackSettings(whole.size_bytes))
    assert exact.loss == LOSSES[0] and exact.size_bytes == whole.size_bytes


def test_files_that_grow_on_the_disk_are_dropped_again(source, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "EMPTY_BYTES", -9000)  # as if it had been counted wrongly
    report = pack(source, tmp_path / "pack", PackSettings(200_000))
    assert size_of(tmp_path / "pack") == report.size_bytes <= 200_000 and report.kept


@pytest.mark.parametrize("size", ["130KiB", "200KiB", "300KiB"])
def test_labels_and_songs_are_kept(source, tmp_path, size):
    report = pack(source, tmp_path / "pack", PackSettings(parse_size(size)))
    everything = read_rows(source)
    singles = {entry for entry in labels(everything) if entry[0] in ("speech", "sfx")}
    assert singles <= labels(report.kept)
    songs = [row["song"] for row in report.kept if "song" in row]
    assert songs and all(songs.count(song) == len(STEMS) for song in songs)
    kept = {row["path"] for row in report.kept}
    for row in report.kept:
        assert set(row.get("aligned_with", ())) <= kept
        assert len(row.get("aligned_with", ())) == (3 if row["prompt"] in STEMS else 0)
    if size == "200KiB":  # evenly
        share = {p: [r["prompt"] for r in report.kept].count(p) / 16 for p in ("speech", "sfx")}
        assert abs(share["speech"] - share["sfx"]) < 0.15 and 0.2 < share["sfx"] < 1
        effects = [row["label"] for row in report.kept if row["prompt"] == "sfx"]
        counts = [effects.count(label) for label in set(effects)]
        assert len(counts) == 4 and max(counts) - min(counts) <= 1


def test_the_order_keeps_every_label_first():
    rows = [{"path": f"{n}", "prompt": "sfx", "split": "train", "label": f"{n % 3},x"} for n in range(30)]
    rows += [{"path": "r", "prompt": "sfx", "split": "dev", "label": "rare"}]
    order = keep_order(rows, units_of(rows))
    assert sorted(position for unit in order for position in unit) == list(range(31))
    assert {rows[unit[0]]["label"] for unit in order[:4]} == {"0,x", "1,x", "2,x", "rare"}
    assert keep_order(rows[::-1], units_of(rows[::-1])) == [[30 - i] for [i] in order]  # the listing does not matter


def test_stems_without_a_song_stay_together():
    names = ["a.wav", "b.wav", "c.wav"]
    rows = [
        {"path": name, "prompt": stem, "split": "train", "aligned_with": [x for x in names if x != name]}
        for name, stem in zip(names, STEMS, strict=False)
    ]
    assert units_of([*rows, {"path": "d.wav", "prompt": "bass", "split": "train"}]) == [[0, 1, 2], [3]]


def test_songs_are_units_of_their_split():
    rows = [{"path": str(n), "prompt": "bass", "split": ("train", "dev")[n // 4], "song": f"{n % 2}"} for n in range(6)]
    assert units_of(rows) == [[0, 2], [1, 3], [4], [5]]


def test_audio_comes_back(source, tmp_path):
    pack(source, tmp_path / "pack", PackSettings(2**22, rate=12000))
    old, new = read_rows(source), read_rows(tmp_path / "pack/manifest.json")
    assert len(old) == len(new)
    for before, after in zip(old, new, strict=True):
        rate = min(before["sample_rate"], 12000)
        info = soundfile.info(tmp_path / "pack" / after["path"])
        assert (info.format, info.subtype, info.channels, info.samplerate) == ("OGG", "VORBIS", 1, rate)
        assert abs(info.frames - before["seconds"] * rate) <= 1
        changed = {"path", "sample_rate", "seconds", "aligned_with"}
        assert after["sample_rate"] == rate and after["seconds"] == pytest.approx(before["seconds"], abs=1e-3)
        assert {k: v for k, v in after.items() if k not in changed} == {
            k: v for k, v in before.items() if k not in changed
        }


def test_it_is_the_same_sound(tmp_path):
    manifest = tiny_manifest(tmp_path)
    pack(manifest, tmp_path / "pack", PackSettings(2**20))
    for before, after in zip(read_manifest(manifest), read_manifest(tmp_path / "pack/manifest.json"), strict=True):
        (old, _), (new, _) = soundfile.read(before.path), soundfile.read(after.path)
        assert len(old) == len(new)
        assert 10 * np.log10((old**2).mean() / ((old - new) ** 2).mean()) > 15  # dB
    assert len(TONE) * 4 == len(list((tmp_path / "pack").rglob("*.ogg")))


def test_the_same_twice(source, tmp_path):
    pack(source, tmp_path / "a", PackSettings(200_000))
    time.sleep(1.1)  # libsndfile draws serial numbers from the clock
    pack(source, tmp_path / "b", PackSettings(200_000))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_long_file_in_blocks(tmp_path):
    samples = np.sin(np.arange(3 * BLOCK_FRAMES + 17) / 9) / 2
    (tmp_path / "a.ogg").write_bytes(encode(samples, RATE, 0.5))
    back, rate = soundfile.read(tmp_path / "a.ogg")
    assert rate == RATE and len(back) == len(samples)
    np.testing.assert_allclose(back[500:-500], samples[500:-500], atol=0.03)


def test_what_is_taken(source, tmp_path):
    report = pack(source, tmp_path / "a", PackSettings(2**22, splits=("dev",)))
    assert [row["speaker"] for row in report.kept] == ["speaker d"] and not report.dropped
    report = pack(source, tmp_path / "b", PackSettings(2**22, license_classes=("free-use",)))
    assert len(report.kept) == 5 and {row["license_class"] for row in report.kept} == {"free-use"}
    with pytest.raises(InputError, match="no items of the splits and licence classes"):
        pack(source, tmp_path / "c", PackSettings(2**22, splits=("test",)))


def test_bad_files_are_left_out_with_their_song(tmp_path):
    manifest = tiny_manifest(tmp_path, seconds=0.5)
    rows = read_rows(manifest)
    for row in rows:
        row.pop("sample_rate"), row.update(sample_rate=8000)
    (tmp_path / "train-bass-0.wav").write_bytes(b"")
    (tmp_path / "dev-sfx-1.wav").unlink()
    report = pack(manifest, tmp_path / "pack", PackSettings(2**20))
    assert {path.name: reason for path, reason in report.problems} == {
        "train-bass-0.wav": "empty file (0 bytes)", "dev-sfx-1.wav": "no such file",
    }  # fmt: skip
    assert len(report.dropped) == 5 and len(report.kept) == len(rows) - 5
    assert not [r for r in report.kept if r["split"] == "train" and r.get("song") == "song 0"]


def test_folders_that_are_there(source, tmp_path):
    settings, target = PackSettings(2**22, splits=("dev",)), tmp_path / "pack"
    target.mkdir()
    with pytest.raises(InputError, match="pack: exists already; replace it with --overwrite"):
        pack(source, target, settings)
    pack(source, target, settings, overwrite=True)
    (target / "stray").write_text("gone with the old pack")
    pack(source, target, settings, overwrite=True)
    assert sorted(p.name for p in target.iterdir()) == ["manifest.json", "speech"]
    (target / "manifest.json").unlink()
    with pytest.raises(InputError, match="is not a pack"):
        pack(source, target, settings, overwrite=True)
    with pytest.raises(InputError, match="holds audio that is to be packed"):
        pack(source, source.parent, settings, overwrite=True)
    with pytest.raises(OutputError, match="is not a folder"):
        pack(source, tmp_path / "gone/pack", settings)


def test_a_failure_leaves_what_was_there(source, tmp_path, monkeypatch):
    settings = PackSettings(2**22, splits=("dev",))
    pack(source, tmp_path / "pack", settings)
    before = contents(tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "manifest_text", full)
    with pytest.raises(OutputError, match="pack: could not be written: No space left"):
        pack(source, tmp_path / "pack", settings, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "size"),
    [("40MiB", 40 * 2**20), ("40MB", 40_000_000), ("500KiB", 512_000), ("1.5 gib", 3 * 2**29), ("77", 77), ("9B", 9)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "40 MBit", "-3", "1e6", "4,5MB", "nan"])
def test_sizes_that_are_none(text):
    with pytest.raises(InputError, match="a size is a number with"):
        parse_size(text)


def test_settings_that_cannot_work(source, tmp_path):
    for settings in ({"max_bytes": 0}, {"max_bytes": 9, "rate": 7999}):
        with pytest.raises(InputError, match="need a size above 0 and a rate from 8000"):
            PackSettings(**settings)
    with pytest.raises(InputError, match="unknown: training; known are train, dev, test"):
        PackSettings(9, splits=("training",))
    with pytest.raises(InputError, match="not one item can be packed into 3000 bytes"):
        pack(source, tmp_path / "pack", PackSettings(3000))
    assert not list(tmp_path.iterdir())
    rows = read_rows(source)
    (tmp_path / "m.json").write_text(json.dumps({"items": [rows[0] | {"prompt": "../sfx"}]}))
    with pytest.raises(InputError, match=r"unknown prompts \.\./sfx; known are speech"):
        pack(tmp_path / "m.json", tmp_path / "pack", PackSettings(3000))
