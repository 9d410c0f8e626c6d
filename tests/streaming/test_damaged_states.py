"""A saved state is input: what does not fit is an error, and the session goes on as if nothing had been."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CAUSAL, SHORT, TUSS, noise, tiny_model

from ussfast import Separator
from ussfast.engine.nested import tensors_of
from ussfast.errors import InputError
from ussfast.prompts.bank import Prompt

SEPARATORS = {
    "causal": Separator.from_model(tiny_model(CAUSAL), ("speech", "sfx"), dtype="float32"),
    "windows": Separator.from_model(tiny_model(TUSS), ("speech", "sfx"), **SHORT),
}
STREAM_RATE = 11025
AT = 5000  # samples that were taken when the states below were


def opened(kind, at=AT):
    session = SEPARATORS[kind].session(STREAM_RATE)
    session.push(noise(2, 9000)[:, :at])
    return session


def other(value):
    """Values of every other type, and shapes one larger, smaller or without an axis."""
    yield None
    yield value.tolist()
    yield value.to(torch.float64 if value.dtype == torch.float32 else torch.float32)
    yield value[None]
    yield torch.cat([value, value[:1]]) if value.dim() else value.repeat(2)
    if value.dim():
        yield value[:-1]
    if value.dim() > 1:
        yield value[..., :-1] if value.shape[-1] else torch.cat([value, value.new_zeros(*value.shape[:-1], 1)], -1)


def damaged(value):
    """Numbers that cannot be."""
    if not value.numel():
        return
    for number in (torch.nan, torch.inf, -torch.inf, 1e30) if value.dtype == torch.float32 else (-1, 2**62, -(10**5)):
        wrong = value.clone()
        wrong.view(-1)[-1] = number if value.dtype != torch.uint8 else 7
        yield wrong


def with_field(state, name, value):
    """The state with another value in one place, by the names of `tensors_of`."""
    first, _, rest = name.partition(".")
    if isinstance(state, tuple):
        return tuple(
            part if str(n) != first else (with_field(part, rest, value) if rest else value)
            for n, part in enumerate(state)
        )
    return replace(state, **{first: with_field(getattr(state, first), rest, value) if rest else value})


@pytest.mark.parametrize("kind", SEPARATORS)
def test_every_field_is_checked_before_anything_changes(kind):
    session, twin = opened(kind), opened(kind)
    whole = session.state
    assert len(tensors_of(whole)) == {"causal": 11 + 6 + 4, "windows": 11 + 4}[kind]
    for name, value in tensors_of(whole).items():
        for wrong in (*other(value), *damaged(value)):
            with pytest.raises(InputError) as refused:
                session.state = with_field(whole, name, wrong)
            assert "\n" not in str(refused.value)
    for nothing in (None, {}, 5, whole.core, (whole,), with_field(whole, "core", None)):
        with pytest.raises(InputError):
            session.state = nothing
    np.testing.assert_array_equal(session.push(noise(2, 3000, 7)).stems, twin.push(noise(2, 3000, 7)).stems)
    np.testing.assert_array_equal(session.flush().stems, twin.flush().stems)


@pytest.mark.parametrize("kind", SEPARATORS)
def test_numbers_that_are_right_alone_must_be_right_together(kind):
    session, earlier = opened(kind), opened(kind, AT - 1507).state
    now = session.state
    for name in ("incoming", "outgoing", "core", "mixture"):
        with pytest.raises(InputError, match="the state is of another session"):
            session.state = replace(now, **{name: getattr(earlier, name)})
    for name in ("slots", "incoming.taken", "incoming.given", "outgoing.taken", "outgoing.given"):
        for number in (-(10**5), -1, 2**53, 2**63 - 1):
            with pytest.raises(InputError):
                session.state = with_field(now, name, torch.full_like(tensors_of(now)[name], number))
    session.state = earlier


@pytest.mark.parametrize("slots", [[-1, 1], [0, 0], [0, 8], [[0, 1]], [0], [0.0, 1.0]])
def test_every_source_has_a_track_of_its_own(slots):
    session = opened("causal")
    with pytest.raises(InputError, match="slots must be"):
        session.state = replace(session.state, slots=torch.tensor(slots))


@pytest.mark.parametrize("kind", SEPARATORS)
def test_files_that_are_no_states(kind, tmp_path):
    session, twin, path = opened(kind), opened(kind), tmp_path / "state.safetensors"
    session.save(path)
    tensors, whole = load_file(path), path.read_bytes()
    less = dict(list(tensors.items())[1:])
    files = {
        "is missing": lambda: save_file(less, path),
        "'front.seen' is not of one": lambda: save_file(tensors | {"front.seen": torch.tensor(-1)}, path),
        "not a session state": lambda: path.write_bytes(whole[:-4]),
        "not a session state: .*": lambda: path.write_bytes((2**62).to_bytes(8, "little") + whole[8:]),
        "not a session state: ": lambda: path.write_bytes(b""),
        "labels": lambda: save_file(tensors | {"labels": torch.zeros(0, 7, dtype=torch.uint8)}, path),
        "mixture must be": lambda: save_file(tensors | {"mixture": torch.zeros(10**9, 0)}, path),
    }
    for said, make in files.items():
        make()
        with pytest.raises(InputError, match=said):
            session.load(path)
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)  # of zeros, that take no room
    with pytest.raises(InputError, match="larger than 1024 MiB"):
        session.load(path)
    with pytest.raises(InputError, match="not a session state"):
        session.load(tmp_path)
    np.testing.assert_array_equal(session.push(noise(2, 3000, 7)).stems, twin.push(noise(2, 3000, 7)).stems)


def test_a_refused_state_does_not_end_what_fades_out():
    session, twin = opened("causal"), opened("causal")
    for one in (session, twin):
        one.set_prompts(("drums",))
    with pytest.raises(InputError):
        session.state = replace(session.state, slots=torch.tensor([-1]))
    ours, theirs = session.push(noise(2, 3000, 7)), twin.push(noise(2, 3000, 7))
    assert ours.labels == theirs.labels == ("drums", "speech", "sfx")
    np.testing.assert_array_equal(ours.stems, theirs.stems)


def test_prompts_must_be_the_same_by_name_and_by_what_they_mean():
    separator = SEPARATORS["causal"]
    state = opened("causal").state
    for prompts in (("sfx", "speech"), ("speech", "drums"), ("speech", "sfx", "sfx"), ("speech",)):
        with pytest.raises(InputError, match="is of a session with the stems 'speech', 'sfx', this one has '"):
            separator.session(STREAM_RATE, prompts=prompts).state = state
    stranger = Separator.from_model(tiny_model(CAUSAL, seed=3), ("speech", "sfx"), dtype="float32")
    with pytest.raises(InputError, match="mean something else"):
        stranger.session(STREAM_RATE).state = state
    vector = separator.prompts["drums"].vector
    for owner, mine in ((separator, vector), (stranger, vector * (1 + 1e-5)), (stranger, -vector)):
        owner.prompts.add(Prompt("bell", mine, "enrolled"))
        session = owner.session(STREAM_RATE, prompts="bell")
        if owner is separator:
            state = session.state
        elif mine[0] * vector[0] > 0:
            session.state = state  # another machine rounds differently
        else:
            with pytest.raises(InputError, match="prompts 'bell' mean something else"):
                session.state = state


def test_states_of_other_rates_and_rooms_do_not_fit():
    separator, state = SEPARATORS["causal"], SEPARATORS["causal"].session(16000).state
    with pytest.raises(InputError, match=r"rates is \[16000, 8000\], expected \[24000, 8000\]"):
        separator.session(24000).state = state
    with pytest.raises(InputError, match="the state is of another session: core.stream.overlap"):
        separator.session(16000, max_prompts=9).state = state


@pytest.mark.parametrize("kind", SEPARATORS)
def test_a_stream_that_has_ended_has_the_state_of_one_that_begins(kind):
    session, fresh, audio = opened(kind), SEPARATORS[kind].session(STREAM_RATE, channels=2), noise(2, 4000, 3)
    session.flush()
    fresh.state = session.state
    session.reset()
    np.testing.assert_array_equal(fresh.push(audio).stems, session.push(audio).stems)
    np.testing.assert_array_equal(fresh.flush().stems, session.flush().stems)
