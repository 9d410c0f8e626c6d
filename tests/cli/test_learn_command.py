"""`ussfast stream --learn`: a sound that is one of the outputs at once, and gets better."""

import numpy as np
import pytest
import soundfile
from commands import load, record, run
from tiny import CAUSAL, RATE, tiny_directory

from ussfast import Prompt, Separator
from ussfast.cli.learned import Learned
from ussfast.prompts.files import read_bank
from ussfast.prompts.origin import Origin, Tuning
from ussfast.streaming.apart import Apart
from ussfast.tuning.prompts import TuneStep


@pytest.fixture
def model(folder):
    """A causal one, with clips of dogs, of cats and of silence beside it, and something to separate."""
    for seed, name in enumerate(("dogs/one", "dogs/two", "cat", "good"), 1):
        record(f"{name}.wav", 9000, seed)
    soundfile.write("silent.wav", np.zeros(9000, np.float32), RATE)
    return tiny_directory(folder, CAUSAL)


def enrolled(model, name, clips):
    separator = Separator(model, device="cpu")
    return separator.enroll(name, clips).vector.numpy()


def again(capsys, model):
    """What is in the bank, in a stream of its own."""
    arguments = ("stream", "good.wav", "-m", model, "--bank", "my.bank", "-p", "dog", "-o", "again", "--fast")
    assert run(capsys, *arguments)[0] == 0


def test_what_is_learned_is_an_output_at_once_and_saved_at_the_end(model, folder, capsys):
    code, out, err = run(
        capsys, "stream", "good.wav", "-m", model, "-p", "speech", "--learn", "dog=dogs", "--learn", "cat=cat.wav",
        "--save-prompts", "my.bank", "-o", "out", "--fast",
    )  # fmt: skip
    assert (code, err) == (0, "") and out.split() == ["out/speech.wav", "out/dog.wav", "out/cat.wav"]
    separator = Separator(model, device="cpu", dtype="float32")
    assert [p.name for p in read_bank("my.bank").prompts] == ["dog", "cat"]
    assert load("out/dog.wav").shape == load("good.wav").shape and np.abs(load("out/dog.wav")).max() > 0
    # In so short a time nothing better was found: they are those that they began with, and so is what came out.
    separator.load_prompts("my.bank")
    for name, clips in (("dog", sorted((folder / "dogs").glob("*.wav"))), ("cat", ["cat.wav"])):
        np.testing.assert_allclose(separator.prompts[name].vector.numpy(), enrolled(model, name, clips), atol=1e-6)
    again(capsys, model)
    np.testing.assert_allclose(load("again/dog.wav"), load("out/dog.wav"), atol=1e-6)


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_better_prompts_come_in_with_a_line(model, capsys, monkeypatch, quiet):
    """With a tuner that finds one at once, while the stream waits for it."""

    class Finds(Apart):
        def run(self, each):
            separator, (name, clips, *_), _ = self._call
            assert [clip.name for clip in clips] == ["one.wav", "two.wav"]
            origin = Origin(2, 1.0, "mean", (), tuning=Tuning(20, 1.23, 4.56))
            better = Prompt(name, -separator.prompts["vocals"].vector, "tuned", origin)
            for step in (20, 21):
                each(TuneStep(step, 0.0, None, 1.23, 4.56, better))
            return better

    begin = Learned.begin

    def begun(self, separator, session):
        begin(self, separator, session)
        for learning in self._running:
            learning.wait(60)

    monkeypatch.setattr("ussfast.streaming.learning.Apart", Finds)
    monkeypatch.setattr(Learned, "begin", begun)
    arguments = ("stream", "good.wav", "-m", model, "--learn", "dog=dogs", "--save-prompts", "my.bank")
    code, _, err = run(capsys, *arguments, "-o", "out", "--fast", *quiet)
    told = "ussfast: a better prompt 'dog' after 20 steps: held-out SDR 1.2 -> 4.6 dB\n"
    assert (code, err) == (0, "" if quiet else told)
    [saved] = read_bank("my.bank").prompts
    assert saved.kind == "tuned"
    again(capsys, model)
    np.testing.assert_array_equal(load("again/dog.wav"), load("out/dog.wav"))


def test_an_error_beside_the_stream_is_a_line_at_its_end(model, capsys, monkeypatch):
    class Fails(Apart):
        def run(self, each):
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr("ussfast.streaming.learning.Apart", Fails)
    begin = Learned.begin

    def begun(self, separator, session):
        begin(self, separator, session)
        with pytest.raises(ZeroDivisionError):
            self._running[0].wait(60)

    monkeypatch.setattr(Learned, "begin", begun)
    code, out, err = run(capsys, "stream", "good.wav", "-m", model, "--learn", "dog=dogs", "-o", "out", "--fast")
    assert code == 0 and out.split() == ["out/dog.wav"]
    assert err == "ussfast: warning: 'dog' was not learned to the end: a bug\n"


def test_silent_clips_end_it_before_the_stream_begins(model, folder, capsys):
    code, out, err = run(
        capsys, "stream", "good.wav", "-m", model, "--learn", "dog=silent.wav", "-o", "out", "--save-prompts", "my.bank"
    )
    assert code == 2 and out == "" and "silent.wav" in err and err.count("\n") == 1
    assert not (folder / "out").exists() and not (folder / "my.bank").exists()


def test_clips_stay_where_stems_would_take_their_place(model, folder, capsys):
    record("out/dog.wav", 9000, 7)
    before = (folder / "out/dog.wav").read_bytes()
    code, _, err = run(capsys, "stream", "good.wav", "-m", model, "--learn", "dog=out/dog.wav", "-o", "out", "--fast")
    assert code == 2 and "out/dog.wav" in err and (folder / "out/dog.wav").read_bytes() == before
