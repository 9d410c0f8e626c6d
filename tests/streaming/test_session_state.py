"""A stream that is saved goes on elsewhere, bit for bit."""

import subprocess
import sys

import numpy as np
import pytest
from pieces import close, joined
from tiny import CAUSAL, RATE, noise, tiny_directory, tiny_model

from ussfast import Separator
from ussfast.errors import InputError

SEPARATOR = Separator.from_model(tiny_model(CAUSAL), ("speech", "drums"), dtype="float32")


@pytest.mark.parametrize("rate", [RATE, 44100])
@pytest.mark.parametrize("prompts", [("speech", "drums"), ("sfx", "sfx")])
def test_a_restored_stream_continues_bit_for_bit(rate, prompts):
    audio = noise(2, rate)
    session = SEPARATOR.session(rate, prompts=prompts)
    session.push(audio[:, : rate // 3])
    state = session.state
    expected = joined([session.push(audio[:, rate // 3 :]), session.flush()])[0]
    other = SEPARATOR.session(rate, prompts=prompts)
    other.state = state
    actual = joined([other.push(audio[:, rate // 3 : rate // 2]), other.push(audio[:, rate // 2 :]), other.flush()])[0]
    np.testing.assert_array_equal(actual, expected)


RESTORE = """
import sys, numpy as np, ussfast
sep = ussfast.Separator(sys.argv[1], ("speech", "drums"))
session = sep.session(16000)
session.load(sys.argv[2])
piece, rest = session.push(np.load(sys.argv[3])), session.flush()
np.save(sys.argv[4], np.concatenate((piece.stems, rest.stems), -1))
"""


def test_a_stream_moves_to_another_process(tmp_path):
    model = tiny_directory(tmp_path, CAUSAL)
    session = Separator(model, ("speech", "drums")).session(16000)
    audio = noise(1, 9000)
    session.push(audio[:, :4001])
    session.save(tmp_path / "state.safetensors")
    np.save(tmp_path / "rest.npy", audio[:, 4001:])
    files = [str(tmp_path / name) for name in ("state.safetensors", "rest.npy", "out.npy")]
    subprocess.run([sys.executable, "-c", RESTORE, str(model), *files], check=True, timeout=120)
    expected = joined([session.push(audio[:, 4001:]), session.flush()])[0]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_states_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    session, audio = SEPARATOR.session(RATE), noise(2, 3000)
    session.push(audio[:, :1000])
    single = SEPARATOR.session(RATE, prompts=("speech",))
    single.push(noise(1, 500))
    with pytest.raises(InputError, match="the stems 'speech', this one has 'speech', 'drums'"):
        session.state = single.state
    mono = SEPARATOR.session(RATE, channels=1)
    with pytest.raises(InputError, match="of 2 channels, this one has 1"):
        mono.state = session.state
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    for name in ("no.safetensors", "missing.safetensors"):
        with pytest.raises(InputError, match="not a session state"):
            session.load(tmp_path / name)
    single.save(tmp_path / "single.safetensors")
    with pytest.raises(InputError, match="prompts"):
        session.load(tmp_path / "single.safetensors")
    out = joined([session.push(audio[:, 1000:]), session.flush()])[0]
    close(out, SEPARATOR.separate(audio, RATE).stems[..., -out.shape[-1] :])


@pytest.mark.parametrize("path", [5, None, b"\0", "a\0b", "", "n" * 300, [1]])
def test_what_is_no_path_is_no_state(path):
    with pytest.raises(InputError, match="not a session state"):
        SEPARATOR.session(RATE).load(path)
