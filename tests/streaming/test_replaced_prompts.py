"""Vectors that take the place of others while a stream runs."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import cut, joined
from tiny import ASP, CAUSAL, RATE, TUSS, UNCONDITIONAL, noise, tiny_model

from ussfast import InputError, Prompt, PromptError, Separator

HOP = CAUSAL.stft.hop
SEPARATOR = Separator.from_model(tiny_model(CAUSAL), ("speech", "drums"), dtype="float32")
VECTOR = -SEPARATOR.prompts["vocals"].vector
SEPARATOR.prompts.add(Prompt("it", VECTOR, "enrolled"))
IT = ("speech", "it")


def in_a_thread(work, *arguments):
    """Does it in another thread, and raises here what it raises there."""
    errors = []

    def run():
        try:
            work(*arguments)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def spoken(session, audio, sizes, at, change):
    """Stems of a stream in chunks of these sizes; the change comes before chunk `at`, and at which sample of input."""
    pieces, taken, place = [], 0, None
    for number, chunk in enumerate(cut(audio, sizes)):
        if number == at:
            change()
            place = taken
        pieces.append(session.push(chunk))
        taken += chunk.shape[1]
    pieces.append(session.flush())
    return joined(pieces)[0], place


@given(
    sizes=st.lists(st.sampled_from((0, 1, 2, 63, 64, 65, 127, 257, 1009)), min_size=1, max_size=12),
    share=st.floats(0, 1),
    rate=st.sampled_from((RATE, 11025)),
)
@settings(max_examples=25, deadline=None)
def test_from_another_thread_with_blocks_of_any_size(sizes, share, rate):
    audio, at = noise(1, 4000), round(share * len(sizes))
    session = SEPARATOR.session(rate, channels=1)
    found, place = spoken(session, audio, sizes, at, lambda: in_a_thread(session.replace_prompt, "drums", VECTOR))
    never = joined([SEPARATOR.session(rate, channels=1).push(audio)])[0]
    always = joined([SEPARATOR.session(rate, prompts=IT, channels=1).push(audio)])[0]
    count = never.shape[-1]
    np.testing.assert_array_equal(found[0, :, :count], never[0])
    if rate == RATE:
        # Whole hops come out: that which the change falls into is the one of the cross-fade, a hop late.
        first = max(0, place // HOP * HOP - HOP)
        np.testing.assert_array_equal(found[1, :, :first], never[1, :, :first])
        np.testing.assert_array_equal(found[1, :, first + HOP : count], always[1, :, first + HOP :])
    else:
        assert np.abs(found[1, :, :count] - always[1])[:, -100:].max() < 1e-6
    assert session.labels == ("speech", "drums")


def test_the_two_vectors_cross_fade():
    audio, at = noise(1, 6000), 40 * HOP
    never = joined([SEPARATOR.session(RATE, channels=1).push(audio)])[0][1, 0]
    always = joined([SEPARATOR.session(RATE, prompts=IT, channels=1).push(audio)])[0][1, 0]
    session = SEPARATOR.session(RATE, channels=1)
    found, place = spoken(session, audio, [at], 1, lambda: session.replace_prompt("drums", VECTOR))
    fade = slice(place - HOP, place)
    found, old, new = found[1, 0, fade], never[fade], always[fade]
    apart = np.abs(old - new).max()
    assert apart > 1e-3
    assert np.abs(found - old)[:3].max() < 0.1 * apart and np.abs(found - new)[-3:].max() < 0.1 * apart
    assert np.abs(np.diff(found)).max() < 2 * max(np.abs(np.diff(old)).max(), np.abs(np.diff(new)).max())


def test_models_with_windows_take_another_vector_too():
    separator = Separator.from_model(tiny_model(TUSS), ("speech", "drums"), segment=0.4)
    other = -separator.prompts["vocals"].vector
    separator.prompts.add(Prompt("it", other, "enrolled"))
    audio, at = noise(1, 9000), 4000
    session = separator.session(RATE, channels=1, latency=0.1)
    whole = joined(separator.session(RATE, prompts=("speech", "it"), channels=1, latency=0.1).pieces([audio]))[0]
    found, _ = spoken(session, audio, [at], 1, lambda: in_a_thread(session.replace_prompt, "drums", other))
    before = joined(separator.session(RATE, channels=1, latency=0.1).pieces([audio]))[0]
    np.testing.assert_array_equal(found[..., : at - 1000], before[..., : at - 1000])
    np.testing.assert_array_equal(found[..., at + 1000 :], whole[..., at + 1000 :])
    assert np.abs(whole - before)[1].max() > 1e-3


def test_vectors_of_a_detector_can_be_replaced():
    separator = Separator.from_model(tiny_model(ASP), segment=0.4)
    for seed, name in enumerate(("a", "b", "c")):
        vector = torch.randn(separator.prompts.prompt_size, generator=torch.Generator().manual_seed(seed))
        separator.prompts.add(Prompt(name, vector, "enrolled"))
    session, other = (separator.session(RATE, prompts=names, channels=1) for names in (("a", "b"), ("a", "c")))
    session.replace_prompt("b", separator.prompts["c"])
    audio = noise(1, 9000)
    np.testing.assert_array_equal(joined(session.pieces([audio]))[0], joined(other.pieces([audio]))[0])


def test_a_prompt_that_repeats_is_replaced_everywhere():
    session = SEPARATOR.session(RATE, prompts=("sfx", "speech", "sfx"), channels=2)
    session.replace_prompt("sfx", Prompt("sfx", VECTOR, "tuned"))
    same = SEPARATOR.session(RATE, prompts=("it", "speech", "it"), channels=2)
    audio = noise(2, 3000)
    np.testing.assert_array_equal(joined(session.pieces([audio]))[0], joined(same.pieces([audio]))[0])


def test_prompts_that_were_equal_are_told_apart():
    SEPARATOR.prompts.add(Prompt("same", VECTOR, "enrolled"))
    session = SEPARATOR.session(RATE, prompts=("same", "it"), channels=2)
    session.replace_prompt("it", SEPARATOR.prompts["sfx"])
    other = SEPARATOR.session(RATE, prompts=("same", "sfx"), channels=2)
    audio = noise(2, 3000)
    np.testing.assert_array_equal(joined(session.pieces([audio]))[0], joined(other.pieces([audio]))[0])


def test_the_newest_counts_and_set_prompts_takes_the_separators():
    audio = noise(1, 3000)
    usual = joined(SEPARATOR.session(RATE, channels=1).pieces([audio]))[0]
    session = SEPARATOR.session(RATE, channels=1)
    session.replace_prompt("drums", VECTOR)
    session.replace_prompt("drums", SEPARATOR.prompts["drums"].vector)
    np.testing.assert_array_equal(joined(session.pieces([audio]))[0], usual)
    session.reset()
    session.replace_prompt("drums", VECTOR)
    session.set_prompts(("speech", "drums"))
    np.testing.assert_array_equal(joined(session.pieces([audio]))[0], usual)
    session.reset()
    session.replace_prompt("drums", VECTOR)
    with pytest.raises(PromptError):
        session.set_prompts(("speech", "nothing"))  # changes nothing: the vector is still to come
    assert np.abs(joined(session.pieces([audio]))[0] - usual)[1].max() > 1e-3


def test_what_is_asked_for_no_longer_is_left_alone():
    audio = noise(1, 3000)
    session = SEPARATOR.session(RATE, channels=1)
    session.replace_prompt("drums", VECTOR)
    session.set_prompts(("speech", "sfx"))
    session._replaced.append(("drums", VECTOR))  # as of a thread that looked before and comes after
    usual = SEPARATOR.session(RATE, prompts=("speech", "sfx"), channels=1).push(audio).stems
    np.testing.assert_array_equal(session.push(audio).stems[:2], usual)


def test_the_first_chunk_may_bring_more_channels():
    audio = noise(2, 3000)
    session = SEPARATOR.session(RATE)
    session.replace_prompt("drums", VECTOR)
    same = SEPARATOR.session(RATE, prompts=IT)
    np.testing.assert_array_equal(joined(session.pieces([audio]))[0], joined(same.pieces([audio]))[0])


def test_a_stream_of_a_pool_is_replaced_alone():
    pool, audio = SEPARATOR.pool(2, RATE), noise(1, 3000)
    one, two = pool.join(), pool.join()
    pool[one].replace_prompt("drums", VECTOR)
    pieces = pool.push({one: audio, two: audio})
    always, never = (
        SEPARATOR.session(RATE, prompts=names, channels=1).push(audio).stems for names in (IT, ("speech", "drums"))
    )
    assert np.abs(pieces[one].stems - always).max() < 1e-5 and np.abs(pieces[two].stems - never).max() < 1e-5
    session = pool[one]
    pool.leave(one)
    with pytest.raises(InputError, match="has left its pool"):
        session.replace_prompt("drums", VECTOR)


def test_a_state_goes_on_where_the_same_vector_is():
    audio = noise(1, 4000)
    session, other = (SEPARATOR.session(RATE, channels=1) for _ in range(2))
    session.replace_prompt("drums", VECTOR)
    session.push(audio[:, :2000])
    with pytest.raises(InputError, match="mean something else"):
        other.state = session.state
    other.replace_prompt("drums", VECTOR)
    other.state = session.state
    np.testing.assert_array_equal(other.push(audio[:, 2000:]).stems, session.push(audio[:, 2000:]).stems)


@pytest.mark.parametrize(
    ("name", "vector", "error", "says"),
    [
        ("sfx", VECTOR, PromptError, "'sfx' cannot be replaced: what is separated here is speech, drums"),
        (3, VECTOR, PromptError, "3 cannot be replaced"),
        ("drums", VECTOR[:-1], PromptError, "'drums': a vector of 8 numbers is needed, not"),
        ("drums", VECTOR * torch.nan, PromptError, "'drums': its vector has numbers that are not finite"),
        ("drums", SEPARATOR.prompts["speech"], PromptError, "by what 'speech' is: the two stems would be the same"),
        ("drums", [1.0] * 8, InputError, "a Prompt or the tensor of its vector is needed, got list"),
        ("drums", None, InputError, "a Prompt or the tensor of its vector is needed, got NoneType"),
    ],
)
def test_what_cannot_be_replaced_changes_nothing(name, vector, error, says):
    audio = noise(1, 3000)
    session = SEPARATOR.session(RATE, channels=1)
    with pytest.raises(error, match=says):
        session.replace_prompt(name, vector)
    usual = SEPARATOR.session(RATE, channels=1)
    np.testing.assert_array_equal(session.push(audio).stems, usual.push(audio).stems)


def test_a_model_without_prompts_has_none_to_replace():
    session = Separator.from_model(tiny_model(UNCONDITIONAL), segment=0.4).session(RATE)
    with pytest.raises(PromptError, match="takes no prompts"):
        session.replace_prompt("s1", VECTOR)
