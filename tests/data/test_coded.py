"""`ussfast train coded`: a share of the training items as MP3 or Vorbis, everything else untouched."""

import numpy as np
import pytest
import soundfile

from ussfast.audio import read
from ussfast.cli.main import main
from ussfast.data.coded import code
from ussfast.data.manifest import read_rows, write_rows
from ussfast.data.pool import read_manifest
from ussfast.errors import InputError, OutputError

RATE = 16000


@pytest.fixture
def manifest(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for number in range(12):
        path = tmp_path / "data" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        swell = np.sin(np.arange(RATE) / 800) ** 2
        noise = np.convolve(rng.standard_normal(RATE), np.ones(9) / 3, "same")
        soundfile.write(path, 0.3 * swell * noise, RATE, "FLOAT")
        split, song = ("dev", None) if number == 10 else ("train", "song1" if number == 11 else None)
        rows.append({
            "path": path.name, "prompt": "bass" if song else "sfx", "split": split, "license_class": "permissive",
            "sample_rate": RATE, "seconds": 1.0, "label": f"l{number}", "note": number,
        } | ({"song": song} if song else {}))  # fmt: skip
    write_rows(tmp_path / "data/manifest.json", rows)
    return tmp_path / "data/manifest.json"


def test_items_of_training_are_encoded(manifest, tmp_path):
    assert code(manifest, tmp_path / "out", share=1.0) == (10, 12)
    rows, before = read_rows(tmp_path / "out/manifest.json"), read_rows(manifest)
    assert [row["note"] for row in rows] == list(range(12))
    assert {row["codec"].split(",")[0] for row in rows[:10]} == {"mp3", "ogg"}
    for row, old, item in zip(rows, before, read_manifest(tmp_path / "out/manifest.json"), strict=True):
        (x, rate), (y, _) = read(item.path), read(manifest.parent / old["path"])
        assert rate == RATE and x.shape == y.shape
        if "codec" in row:
            assert row == old | {"path": row["path"], "codec": row["codec"]}
            error = 10 * np.log10(np.square(x - y).sum() / np.square(y).sum())
            assert -40 < error < -3  # heard, and the same sound
        else:
            np.testing.assert_array_equal(x, y)


def test_the_choice_does_not_depend_on_the_rest(manifest, tmp_path):
    code(manifest, tmp_path / "all", share=0.5)
    rows = read_rows(manifest)
    write_rows(manifest, rows[3:])
    code(manifest, tmp_path / "some", share=0.5)
    chosen = [[r["note"] for r in read_rows(tmp_path / f / "manifest.json") if "codec" in r] for f in ("all", "some")]
    assert 1 <= len(chosen[0]) <= 9 and chosen[1] == [n for n in chosen[0] if n >= 3]


def test_the_command(manifest, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["train", "coded", str(manifest), str(tmp_path / "out"), "--share", "0"])
    assert not exit.value.code and "12 items, 0 of them encoded" in capsys.readouterr().out


def test_bad_input(manifest, tmp_path):
    with pytest.raises(InputError, match="share must be between 0 and 1, got 2"):
        code(manifest, tmp_path / "out", share=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(OutputError, match="there already"):
        code(manifest, tmp_path / "full")
    (manifest.parent / "3.wav").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"3\.wav"):
        code(manifest, tmp_path / "out", share=1.0)
    assert not (tmp_path / "out/manifest.json").exists()
