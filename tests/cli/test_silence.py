"""-q: nothing but errors on standard error, whatever libraries write there."""

import os
import sys

import pytest
import soundfile
from tiny import RATE, noise

from ussfast.cli.main import main
from ussfast.cli.silence import silent_libraries


def test_damaged_mp3s_are_separated_quietly(tmp_path, model, capfd):
    soundfile.write(tmp_path / "a.mp3", noise(1, 2 * RATE).T, RATE)
    data = bytearray((tmp_path / "a.mp3").read_bytes())
    for at in range(1000, len(data), 97):
        data[at] ^= 0x55
    (tmp_path / "a.mp3").write_bytes(data)
    (tmp_path / "b.wav").write_bytes(b"no audio")
    command = ["separate", str(tmp_path / "a.mp3"), "-p", "speech", "-m", str(model), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as exit:
        main([*command, "-q"])
    out, err = capfd.readouterr()
    assert (exit.value.code or 0, out, err) == (0, "", "")
    assert (tmp_path / "out" / "a" / "speech.wav").is_file()
    with pytest.raises(SystemExit) as exit:
        main([*command, str(tmp_path / "b.wav"), "-q"])
    err = capfd.readouterr().err
    assert exit.value.code == 2 and err.count("\n") == 1 and "b.wav: libsndfile could not read it" in err


def test_python_still_writes_and_everything_is_put_back(capfd):
    with silent_libraries():
        os.write(2, b"a library")
        print("a line", file=sys.stderr)
    os.write(2, b"after")
    assert capfd.readouterr().err == "a line\nafter"
    with silent_libraries(False):
        os.write(2, b"a library")
    assert capfd.readouterr().err == "a library"


def test_standard_error_may_be_closed():
    kept = os.dup(2)
    os.close(2)
    try:
        with silent_libraries():
            pass
        with pytest.raises(OSError):
            os.fstat(2)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
