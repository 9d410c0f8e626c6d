"""Pieces whose stems belong together: which there are in folders and manifests, their audio, what is wrong."""

import json

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import RATE, STEMS, tiny_manifest

from ussfast.data.stems import Piece, StemPool, read_pieces
from ussfast.errors import AudioError, InputError


def write(path, seconds=1.0, level=0.1, rate=RATE, channels=1, value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(sum(map(ord, str(path.name)))).standard_normal((round(seconds * rate), channels))
    kind = "FLOAT" if path.suffix == ".wav" else None
    soundfile.write(path, np.full_like(samples, value) if value is not None else level * samples, rate, kind)
    return path


def folder_of(root, *pieces, stems=("alto", "bass"), **more):
    for piece in pieces:
        for stem in stems:
            write(root / piece / f"{stem}.wav", **more)
    return root


def pool(lengths=(4000, 6000), sources=2, seed=0):
    rng = np.random.default_rng(seed)
    audio = [torch.from_numpy(rng.standard_normal((sources, n)).astype(np.float32)) for n in lengths]
    pieces = [
        Piece(f"p{i}", "train", {f"s{k}": (f"{i}-{k}.wav",) for k in range(sources)}, ()) for i in range(len(audio))
    ]
    return StemPool([f"s{k}" for k in range(sources)], RATE, pieces, audio)


def test_a_folder_of_pieces(tmp_path):
    folder_of(tmp_path, "one", "two", stems=("bass", "Alto", "mixture", "mix"))
    (tmp_path / "one" / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    found = read_pieces(tmp_path)
    assert [(p.name, p.split, list(p.files)) for p in found] == [
        ("one", "train", ["Alto", "bass"]), ("two", "train", ["Alto", "bass"])
    ]  # fmt: skip
    assert found[0].files["bass"] == (str(tmp_path / "one" / "bass.wav"),)
    assert {(i.prompt, i.song, i.native_rate, i.seconds) for i in found[0].items} == {
        ("bass", "one", RATE, 1.0), ("Alto", "one", RATE, 1.0)
    }  # fmt: skip


def test_a_folder_that_is_one_piece(tmp_path):
    folder_of(tmp_path, "choir")
    assert [(p.name, list(p.files)) for p in read_pieces(tmp_path / "choir")] == [("choir", ["alto", "bass"])]


def test_splits(tmp_path):
    for split, piece in (("train", "a"), ("valid", "b"), ("test", "c")):
        folder_of(tmp_path / split, piece)
    found = read_pieces(tmp_path)
    assert {p.name: p.split for p in found} == {"a": "train", "b": "dev", "c": "test"}
    train, test = StemPool.load(found, RATE).held_out()
    assert [p.name for p in train.pieces] == ["a"] and [p.name for p in test.pieces] == ["c", "b"]


def test_songs_of_a_manifest(tmp_path):
    found = read_pieces(tiny_manifest(tmp_path))
    # Songs of the same name in two splits are two.
    assert [(p.name, p.split) for p in found] == [(f"song {i}", split) for split in ("train", "dev") for i in range(2)]
    assert list(found[0].files) == sorted(STEMS)
    assert {item.prompt for item in found[0].items} == set(STEMS)
    two = read_pieces(tmp_path / "manifest.json", names=("vocals", "bass"))
    assert [list(p.files) for p in two] == [["bass", "vocals"]] * 4
    assert {item.prompt for item in two[0].items} == {"bass", "vocals"}


def test_sources_by_label_and_several_files_of_one(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.wav")
    rows = [
        {"path": f"{name}.wav", "prompt": "other", "label": label, "song": "s", "split": "train", "sample_rate": RATE,
         "license_class": "unknown"}
        for name, label in zip("abc", ("flute", "flute", "oboe"), strict=True)
    ]  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps({"items": rows}))
    (piece,) = read_pieces(tmp_path / "manifest.json", by="label")
    assert {name: len(files) for name, files in piece.files.items()} == {"flute": 2, "oboe": 1}
    audio = StemPool.load([piece], RATE).audio[0]
    parts = [soundfile.read(tmp_path / f"{name}.wav", dtype="float32")[0] for name in "abc"]
    np.testing.assert_allclose(audio, np.stack([parts[0] + parts[1], parts[2]]), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda f: f.mkdir(exist_ok=True), "neither a manifest with songs nor a folder of stems"),
        (lambda f: write(f / "a" / "alto.wav"), "a has one stem only, alto: two are needed"),
        (lambda f: (folder_of(f, "a"), write(f / "a" / "Bass.flac")), r"bass\.wav and .*|two stems of one name"),
        (lambda f: folder_of(f, "song", "Song"), r"Song.*song: two pieces of one name|two pieces of one name"),
        (lambda f: (folder_of(f / "train", "a"), folder_of(f / "dev", "a")), "two pieces of one name"),
        (lambda f: (folder_of(f, "a"), folder_of(f, "b", stems=("alto",))), r"b and a differ in their stems \(bass\)"),
        (lambda f: (folder_of(f, "a"), write(f / "a" / "x\ny.wav")), "the name of a stem must be"),
    ],
)
def test_folders_that_are_none(tmp_path, make, error):
    make(tmp_path / "stems")
    with pytest.raises(InputError, match=error):
        read_pieces(tmp_path / "stems")


def test_names_that_no_piece_has(tmp_path):
    folder_of(tmp_path, "a")
    with pytest.raises(InputError, match="no piece has all of alto, tenor; there are alto, bass"):
        read_pieces(tmp_path, names=("alto", "tenor"))


def test_audio_at_another_rate_with_channels_averaged(tmp_path):
    folder_of(tmp_path, "a", rate=2 * RATE, channels=2)
    found = StemPool.load(read_pieces(tmp_path), RATE)
    assert found.names == ("alto", "bass") and found.audio[0].shape == (2, RATE) and found.seconds == 1.0
    same = StemPool.load(read_pieces(tmp_path), 2 * RATE).audio[0]
    wanted = soundfile.read(tmp_path / "a" / "bass.wav", dtype="float32")[0].mean(1)
    np.testing.assert_allclose(same[1], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        ({"rate": 2 * RATE}, rf"bass\.wav has {2 * RATE} Hz and .*alto\.wav has {RATE} Hz: stems need one rate"),
        ({"seconds": 0.8}, r"bass\.wav has 0\.800 s and .*alto\.wav 1\.000 s: stems of a piece need one length"),
        ({"value": 0.0}, r"bass\.wav: silent throughout: there is nothing to learn"),
        ({"value": np.nan}, r"bass\.wav.*NaN"),
    ],
)
def test_stems_that_do_not_fit_are_named(tmp_path, spoil, error):
    folder_of(tmp_path, "a")
    write(tmp_path / "a" / "bass.wav", **spoil)
    with pytest.raises((InputError, AudioError), match=error):
        StemPool.load(read_pieces(tmp_path), RATE)


def test_what_is_silent_in_one_piece_only_is_music(tmp_path):
    folder_of(tmp_path, "a", "b")
    write(tmp_path / "a" / "bass.wav", value=0.0)
    assert len(StemPool.load(read_pieces(tmp_path), RATE).audio) == 2
    write(tmp_path / "b" / "bass.wav", value=0.0)
    with pytest.raises(InputError, match=r"bass in every other piece"):
        StemPool.load(read_pieces(tmp_path), RATE)


def test_a_few_samples_more_of_a_lossy_codec_are_cut(tmp_path):
    folder_of(tmp_path, "a")
    write(tmp_path / "a" / "bass.wav", seconds=1.02)
    assert StemPool.load(read_pieces(tmp_path), RATE).audio[0].shape == (2, RATE)


def test_few_pieces_are_cut_and_of_many_some_are_kept_back():
    train, test = pool((4000, 6000)).held_out(0.25)
    assert [a.shape[1] for a in train.audio] == [3000, 4500] and [a.shape[1] for a in test.audio] == [1000, 1500]
    many = pool((100,) * 10)
    train, test = many.held_out(0.2)
    assert [p.name for p in test.pieces] == ["p2", "p7"] and len(train.pieces) == 8
    for share in (0, 1):
        with pytest.raises(InputError, match="between 0 and 1"):
            many.held_out(share)


def test_shortened():
    found = pool((4000, 6000, 100)).shortened(0.75)
    assert [a.shape[1] for a in found.audio] == [4000, 2000] and len(found.pieces) == 2


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9000), st.booleans(), st.integers(0, 5))
def test_excerpts_come_from_the_pieces(count, samples, coherent, seed):
    own = pool()
    found = own.draw(np.random.default_rng(seed), count, samples, coherent)
    assert found.shape == (count, 2, samples)
    assert torch.equal(found, own.draw(np.random.default_rng(seed), count, samples, coherent))
    for item in found:
        places = [_places(own, source, row) for row, source in enumerate(item)]
        assert all(places)
        if coherent:
            assert set(places[0]) & set(places[1])


def _places(own, source, row):
    """(piece, offset) at which an excerpt of a source is found."""
    found = []
    for number, audio in enumerate(own.audio):
        length = min(len(source), audio.shape[1])
        windows = audio[row].unfold(0, length, 1)
        at = (windows[:, 0] == source[0]).nonzero().flatten().tolist()
        found += [(number, i) for i in at if torch.equal(windows[i], source[:length]) and not source[length:].any()]
    return found


def test_sources_of_one_mixture_come_from_pieces_of_their_own():
    own = pool()
    found = own.draw(np.random.default_rng(0), 20, 500, coherent=False)
    apart = [_places(own, item[0], 0) != _places(own, item[1], 1) for item in found]
    assert sum(apart) > 15


def test_silent_places_are_avoided():
    own = pool((8000,))
    own.audio[0][:, 1000:] = 0
    own.audio[0][1, 7000:] = 1
    found = own.draw(np.random.default_rng(0), 40, 500)
    assert (found[:, 0].abs().amax(1) > 0).float().mean() > 0.6  # a seventh of the places at random


def test_excerpts_do_not_overlap_and_hold_all_sources():
    own = pool((2500, 1000))
    own.audio[0][1, 1000:2000] = 0
    found = own.excerpts(1000)
    assert torch.equal(found, torch.stack((own.audio[0][:, :1000], own.audio[1])))
    assert own.excerpts(5000).shape == (0, 2, 5000)
