"""Records of what stems were made of: what counts as the same, and what does not."""

import os
import shutil

import soundfile
import torch
from tiny import CAUSAL, RATE, noise, tiny_model

from ussfast import Prompt, Separator
from ussfast.engine.records import Record, fingerprint


def recording(folder):
    soundfile.write(folder / "in.wav", noise(1, 4000).T, RATE, subtype="FLOAT")
    return folder / "in.wav"


def test_fingerprints():
    one, two = tiny_model(CAUSAL), tiny_model(CAUSAL, seed=1)
    assert fingerprint(one) == fingerprint(tiny_model(CAUSAL)) != fingerprint(two)
    two.load_state_dict(one.state_dict())
    assert fingerprint(one) == fingerprint(two)
    with torch.inference_mode():  # whose tensors count no changes
        other = tiny_model(CAUSAL)
    before = fingerprint(other)
    assert before == fingerprint(one)
    with torch.inference_mode():
        next(other.parameters()).add_(1)
    assert fingerprint(other) != before


def test_changed_weights_and_prompts_are_not_the_same_stems(tmp_path):
    """Also of a model that is not from a directory."""
    path = recording(tmp_path)
    network = tiny_model(CAUSAL)
    separator = Separator.from_model(network, "speech", device="cpu")

    def done():
        return separator.separate_file(path, tmp_path / "out", skip_existing=True).seconds is not None

    assert done() and not done()
    with torch.no_grad():
        next(network.parameters()).mul_(1.5)
    assert done() and not done()
    vector = separator.prompts["speech"].vector
    for factor in (1.0, 2.0):
        separator.prompts.add(Prompt("mine", vector * factor, "enrolled"))
        separator.default_prompts = ("mine",)
        assert done() and not done()


def test_a_copy_of_the_same_content_is_the_same_input(tmp_path):
    class Copy(os.PathLike):
        """As an open file is given to decoders."""

        def __init__(self, path, copy):
            self.path = str(shutil.copy(path, copy))
            os.utime(copy, (1, 1))

        def __fspath__(self):
            return self.path

    path = recording(tmp_path)
    made = {"model": "of old"}
    (tmp_path / "stem.wav").touch()
    Record(Copy(path, tmp_path / "one"), [tmp_path / "stem.wav"], ["stem"], made).write()
    assert Record(Copy(path, tmp_path / "two"), [tmp_path / "stem.wav"], ["stem"], made).holds()
    assert not Record(path, [tmp_path / "stem.wav"], ["stem"], made).holds()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert not Record(Copy(path, tmp_path / "two"), [tmp_path / "stem.wav"], ["stem"], made).holds()
