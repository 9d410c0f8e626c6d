"""Readers of recordings with stems, on folders that look like them in miniature."""

import pytest
from miniatures import RATE

from ussfast.data.manifest import SPLITS
from ussfast.data.readers import read_data_set
from ussfast.data.stems import StemPool, read_pieces


def test_bach10_in_detail(scanned, tmp_path):
    scan, rows = scanned("bach10")
    sax = rows["01-AchGottundHerr/01-AchGottundHerr-saxphone.wav"]
    assert (sax["prompt"], sax["song"], sax["license_class"]) == ("saxophone", "bach10 01-AchGottundHerr", "unknown")
    assert len(sax["aligned_with"]) == 3 and not scan.problems
    piece = tmp_path / "sets/bach10/01-AchGottundHerr"
    (piece / f"{piece.name}-saxphone.wav").rename(piece / f"{piece.name}-saxophone.wav")
    (piece / f"{piece.name}-violin.wav").unlink()
    scan = read_data_set("bach10", piece.parent, tmp_path / "m.json")
    assert {row["prompt"] for row in scan.rows if piece.name in row["path"]} == {"saxophone", "clarinet", "bassoon"}
    assert [(problem.path.name, problem.reason) for problem in scan.problems] == [
        ("01-AchGottundHerr-violin.wav", "no such file")
    ]


def test_choirset_in_detail(scanned):
    scan, rows = scanned("choirset")
    names = {path.removeprefix("audio_wav_22050_mono/DCS_").removesuffix(".wav"): row for path, row in rows.items()}
    choir = {name.removeprefix("LI_FullChoir_Take01_") for name in names if "FullChoir" in name}
    assert choir == {"S1_DYN", "S2_LRX", "A1_HSM", "T1_DYN", "B1_LRX", "B2_DYN"}  # one microphone of every singer
    soprano = names["LI_QuartetB_Take04_S1_DYN"]
    assert (soprano["song"], soprano["split"], soprano["speaker"]) == ("dcs LI QuartetB Take04", "dev", "dcs S1")
    assert len(soprano["aligned_with"]) == 3 and scan.unused == 2  # basses alone are no piece


SONGS = {  # kind: wanted stems of its songs, and their files
    "musdb18hq": (None, {"bass": 1, "drums": 1, "other": 1, "vocals": 1}),
    "slakh": (("bass", "drums", "other"), {"bass": 1, "drums": 1, "other": 2}),
    "bach10": (None, {"bassoon": 1, "clarinet": 1, "saxophone": 1, "violin": 1}),
    "choirset": (None, {"alto": 1, "bass_voice": 2, "soprano": 2, "tenor": 1}),
}


@pytest.mark.parametrize("kind", SONGS)
def test_songs_are_pieces_with_stems(scanned, tmp_path, kind):
    """What transfer learning reads: of the first piece, in the training split."""
    scanned(kind)
    wanted, files = SONGS[kind]
    pieces = read_pieces(tmp_path / "manifest.json", wanted)
    assert {name: len(own) for name, own in pieces[0].files.items()} == files
    assert {piece.split for piece in pieces} == set(SPLITS)
    pool = StemPool.load(pieces[:1], RATE)
    assert pool.names == tuple(files) and pool.audio[0].shape[0] == len(files)
