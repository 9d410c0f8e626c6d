"""Prompts that are tuned while a stream runs, and that nothing else notices."""

import time

import numpy as np
import pytest
import torch
from fake_tuner import AROUND, CLIPS, PATIENCE_S, SHORT, Tuner, hiss, prompted, tones, until
from pieces import joined
from tiny import CAUSAL, RATE, UNCONDITIONAL, tiny_model

import ussfast
from ussfast import InputError, Prompt, PromptError, PromptWarning

HOP = CAUSAL.stft.hop


@pytest.fixture
def separator():
    return prompted()


@pytest.fixture
def tuner(separator, monkeypatch):
    return Tuner(separator, monkeypatch)


def tone(separator, factor, kind="tuned"):
    return Prompt("tone", factor * separator.prompts["drums"].vector.detach(), kind)


def same(one, other):
    return torch.equal(one.vector, other.vector) and (one.name, one.kind) == (other.name, other.kind)


def stepped(tuner, learning, step):
    tuner.go.release()
    until(lambda: learning.step is not None and learning.step.step == step)


def test_the_stream_gets_better_and_other_stems_stay_as_they_are(separator):
    names = (tuple(separator.prompts)[0], "tone")
    audio = np.concatenate([tones(20 + i) + hiss(20 + i) for i in range(2)])[None]
    plain = separator.session(RATE, prompts=names, channels=1)
    session = separator.session(RATE, prompts=names, channels=1)
    learning = session.tune("tone", CLIPS, AROUND, RATE, steps=25, **SHORT)
    assert learning.name == "tone"
    during, expected = [], []
    end = time.monotonic() + PATIENCE_S
    while not learning.done and time.monotonic() < end:
        for hop in np.array_split(audio, 50, 1):
            during.append(session.push(hop))
            expected.append(plain.push(hop))
            time.sleep(0.005)  # as a stream waits for its next block
    prompt = learning.wait(PATIENCE_S)
    assert prompt.kind == "tuned" and separator.prompts["tone"] is prompt and learning.step.step == 25
    found, usual = joined(during)[0], joined(expected)[0]
    np.testing.assert_array_equal(found[0], usual[0])
    assert np.abs(found[1] - usual[1]).max() > 1e-3
    # From now on it is the stream of the tuned prompt.
    always = separator.session(RATE, prompts=names, channels=1)
    for piece in during:
        always.push(piece.mixture)
    always.push(session._mixture)  # what is in the stream and not out yet
    session.push(audio)
    always.push(audio)
    np.testing.assert_array_equal(session.push(audio).stems, always.push(audio).stems)


def test_only_better_prompts_are_switched_in(separator, tuner):
    session = separator.session(RATE, prompts=("speech", "tone"), channels=1)
    before = session._tracks.plan.vectors[1].clone()
    enrolled, better, best = tone(separator, 0.5, "enrolled"), tone(separator, 2.0), tone(separator, 3.0)
    tuner.prompts, tuner.last = [enrolled, better, better, best], best
    steps = []
    learning = session.tune("tone", CLIPS, AROUND, RATE, steps=4, on_step=steps.append, extra=1)
    assert learning.step is None and not learning.done
    for number, expected in enumerate((before, better.vector, better.vector, best.vector), 1):
        stepped(tuner, learning, number)
        until(lambda wanted=number: len(steps) == wanted)
        session.push(tones(1)[None, :HOP])
        assert torch.equal(session._tracks.plan.vectors[1], expected)
    tuner.go.release()
    assert same(learning.wait(PATIENCE_S), best) and learning.done
    [own, arguments, settings] = tuner.call
    assert own is separator and arguments == ("tone", CLIPS, AROUND, RATE, "enrolled")
    assert settings == {"steps": 4, "minutes": None, "extra": 1}


def test_what_it_comes_to_in_the_end_counts(separator, tuner):
    session = separator.session(RATE, prompts=("tone",), channels=1)
    better, back = tone(separator, 2.0), tone(separator, 0.5, "enrolled")
    tuner.prompts, tuner.last = [better], back
    learning = session.tune("tone", CLIPS, AROUND, RATE)
    tuner.go.release(2)
    assert same(learning.wait(PATIENCE_S), back)
    session.push(tones(1)[None, :HOP])
    assert torch.equal(session._tracks.plan.vectors[0], back.vector)


def test_a_session_without_the_name_stays_as_it_is(separator, tuner):
    session = separator.session(RATE, prompts=("speech", "drums"), channels=1)
    before = session._tracks.plan
    tuner.prompts = [Prompt("new", 2 * separator.prompts["drums"].vector.detach(), "tuned")]
    learning = session.tune("new", CLIPS, AROUND, RATE)
    tuner.go.release(2)
    assert same(learning.wait(PATIENCE_S), tuner.prompts[0])
    assert separator.prompts["new"] is learning.wait()
    session.push(tones(1)[None])
    assert session._tracks.plan is before
    session.set_prompts(("speech", "new"))
    assert torch.equal(session._tracks.plan.vectors[1], tuner.prompts[0].vector)


def test_cancelling_keeps_the_best_so_far(separator):
    session = separator.session(RATE, prompts=("speech", "tone"), channels=1)
    clips = [*CLIPS, np.clip(3 * tones(7), -0.3, 0.3)]
    with pytest.warns(PromptWarning, match="clip 6: clipped"):
        learning = session.tune("tone", clips, AROUND, RATE, steps=100_000, patience=100_000, **SHORT)
        with pytest.raises(TimeoutError, match="'tone' is still being tuned after 0.01 s"):
            learning.wait(0.01)
        until(lambda: learning.step is not None and learning.step.prompt.kind == "tuned")
    learning.cancel()
    prompt = learning.wait(PATIENCE_S)
    assert prompt.kind == "tuned" and separator.prompts["tone"] is prompt and learning.step.prompt is prompt
    session.push(tones(1)[None])
    assert torch.equal(session._tracks.plan.vectors[1], prompt.vector)
    learning.cancel()  # once more does nothing


@pytest.mark.parametrize("error", [InputError("clip 1 is silent"), ZeroDivisionError("a bug"), MemoryError()])
def test_errors_stay_with_who_asks(separator, tuner, error):
    audio = tones(1)[None]
    session, plain = (separator.session(RATE, prompts=("speech", "tone"), channels=1) for _ in range(2))
    tuner.error = error
    learning = session.tune("tone", CLIPS, AROUND, RATE)
    first = session.push(audio[:, :1000])
    tuner.go.release()
    with pytest.raises(type(error)) as raised:
        learning.wait(PATIENCE_S)
    assert raised.value is error and learning.done
    found = joined([first, session.push(audio[:, 1000:])])[0]
    np.testing.assert_array_equal(found, plain.push(audio).stems)
    tuner.error, tuner.prompts = None, [tone(separator, 2.0)]
    again = session.tune("tone", CLIPS, AROUND, RATE)  # the name is free again
    tuner.go.release(2)
    assert same(again.wait(PATIENCE_S), tuner.prompts[0])


def test_what_on_step_raises_ends_it(separator, tuner):
    session = separator.session(RATE, prompts=("tone",), channels=1)
    tuner.prompts = [tone(separator, 2.0)] * 3

    def stop(step):
        raise RuntimeError("enough")

    learning = session.tune("tone", CLIPS, AROUND, RATE, on_step=stop)
    tuner.go.release()
    with pytest.raises(RuntimeError, match="enough"):
        learning.wait(PATIENCE_S)
    session.push(tones(1)[None])
    assert torch.equal(session._tracks.plan.vectors[0], tuner.prompts[0].vector)


def test_a_name_is_tuned_once_at_a_time(separator, tuner):
    session = separator.session(RATE, prompts=("tone",), channels=1)
    tuner.prompts = [tone(separator, 2.0)]
    learning = session.tune("tone", CLIPS, AROUND, RATE)
    with pytest.raises(InputError, match="'tone' is being tuned already"):
        session.tune("tone", CLIPS, AROUND, RATE)
    tuner.go.release(2)
    learning.wait(PATIENCE_S)


def test_names_and_models_that_cannot_be(separator):
    session = separator.session(RATE, prompts=("tone",), channels=1)
    with pytest.raises(PromptError, match="'speech' is a class prompt"):
        session.tune("speech", CLIPS, AROUND, RATE)
    with pytest.raises(PromptError, match="a prompt's name"):
        session.tune("", CLIPS, AROUND, RATE)
    without = ussfast.Separator.from_model(tiny_model(UNCONDITIONAL), segment=0.4).session(RATE)
    with pytest.raises(PromptError, match="takes no prompts"):
        without.tune("tone", CLIPS, AROUND, RATE)


@pytest.mark.parametrize("of_a_pool", [False, True])
def test_closing_cancels(separator, tuner, of_a_pool):
    tuner.prompts = [tone(separator, factor) for factor in (2.0, 3.0, 4.0)]
    pool = separator.pool(1, RATE)
    stream = pool.join(("tone",))
    session = pool[stream] if of_a_pool else separator.session(RATE, prompts=("tone",), channels=1)
    learning = session.tune("tone", CLIPS, AROUND, RATE)
    stepped(tuner, learning, 1)
    if of_a_pool:
        pool.leave(stream)
    else:
        with session:
            pass
    tuner.go.release()
    prompt, step = learning.wait(PATIENCE_S), learning.step.step
    assert step <= 2 and same(prompt, tuner.prompts[step - 1])  # of the step that it was in
