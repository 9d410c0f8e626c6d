"""scripts/mix_recordings.py: recordings without their sources, and pieces with stems."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import RATE

from ussfast.data.mixtures import read_mixtures
from ussfast.data.stems import StemPool, read_pieces


@pytest.fixture
def run(capsys):
    """The script in this process: (exit code, standard output, standard error)."""
    path = Path(__file__).parents[2] / "scripts" / "mix_recordings.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def called(*arguments):
        code = script.main([str(a) for a in (*arguments, "--rate", RATE)])
        return code, *capsys.readouterr()

    return called


def test_recordings_and_pieces(run, manifest, tmp_path):
    folder = tmp_path / "mixtures"
    short = ("--minutes", "0.2", "--seconds", "2", "--dev", "2", "--dev-seconds", "0.5")
    code, said, _ = run(manifest, folder, *short)
    assert code == 0 and "6 recordings of 2 s, 2 pieces" in said
    files = sorted(folder.rglob("*.flac"))
    assert [f.parent.name for f in files] == ["0000"] * 2 + ["0001"] * 2 + ["recordings"] * 6
    assert len(read_mixtures(folder / "recordings")) == 6
    pool = StemPool.load(read_pieces(folder / "dev"), RATE)
    assert pool.names == ("sfxbg", "speech")
    for own in pool.audio:
        levels = 10 * np.log10(own.square().mean(1).numpy())
        assert -0.1 <= levels[1] - levels[0] <= 5.1
    assert "What recordings was trained on" in (folder / "CREDITS.md").read_text()
    first = [soundfile.read(f)[0] for f in files]
    again = tmp_path / "again"
    run(manifest, again, *short)
    for one, file in zip(first, sorted(again.rglob("*.flac")), strict=True):
        np.testing.assert_array_equal(one, soundfile.read(file)[0])
    assert "is there already" in run(manifest, folder)[2]
    code, _, complaint = run(manifest, tmp_path / "other", "--prompts", "speech", "horn")
    assert code != 0 and "nothing of split train has the prompt horn" in complaint
