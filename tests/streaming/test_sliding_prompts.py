"""Prompts that change while a stream of sliding windows runs."""

import numpy as np
import pytest
from sliding_cores import POLICY, SEPARATORS, asking, make, streamed
from tiny import noise

from ussfast import InputError, PromptError
from ussfast.streaming.sliding import SlidingCore

OLD, NEW = ("speech", "sfx"), ("sfx", "drums")
TURN = 2000  # samples that are out when the prompts change


def switched(audio, count=4):
    """From OLD in slots 0 and 1 to NEW in slots 1 and 3, when input up to the next window's last sample is there."""
    core = make(names=OLD, slots=(0, 1), slot_count=count)
    before = core.push(audio[:, : TURN + core.latency - 1])
    vectors, groups = asking(NEW)
    core.set_prompts(vectors, (1, 3), groups)
    assert before.shape[-1] == TURN
    return np.concatenate([before, streamed(core, audio[:, TURN + core.latency - 1 :], [512])], -1), core.fade


def test_prompts_change_from_the_next_sample_on():
    audio = noise(2, 6000)
    out, fade = switched(audio)
    old = streamed(make(names=OLD, slots=(0, 1), slot_count=4), audio, [6000])
    new = streamed(make(names=NEW, slots=(1, 3), slot_count=4), audio, [6000])
    np.testing.assert_array_equal(out[..., :TURN], old[..., :TURN])
    np.testing.assert_array_equal(out[..., TURN + fade :], new[..., TURN + fade :])
    assert not out[2].any() and not out[0, :, TURN + fade :].any() and not out[3, :, :TURN].any()
    # Between them each slot goes from the one to the other; the ramp and its complement are shared by all of them.
    during = slice(TURN, TURN + fade)
    ramp = np.sin(np.linspace(0, np.pi / 2, fade + 2)[1:-1]) ** 2
    np.testing.assert_allclose(out[3, :, during], ramp * window_of(audio, NEW, TURN)[1], atol=1e-6)
    np.testing.assert_allclose(out[0, :, during], (1 - ramp) * window_of(audio, OLD, TURN - 400)[0], atol=1e-6)
    goes_on = (1 - ramp) * window_of(audio, OLD, TURN - 400)[1] + ramp * window_of(audio, NEW, TURN)[0]
    np.testing.assert_allclose(out[1, :, during], goes_on, atol=1e-6)


def window_of(audio, names, border):
    """What the window that begins to count at `border` says about the cross-fade at TURN."""
    end = border + 800
    begin = max(0, end - 3200)
    out = SEPARATORS["tuss"].engine.run(audio[:, begin:end], asking(names)[0], len(names), ())
    return out[..., TURN - begin : TURN - begin + 100]


class Shuffling:
    """In place of an engine: unmistakable sources for equal prompts, the last two in any order."""

    engine = SEPARATORS["tuss"].engine
    model, check_channels, computing, ask = engine.model, engine.check_channels, engine.computing, engine.ask
    rng = np.random.default_rng(2)

    def run(self, audio, vectors, sources, groups):
        order = self.rng.permutation(2) if groups else [0, 1]
        return np.stack([np.sign(audio), np.abs(audio), -np.square(audio)])[[*range(sources - 2), *(1 + order)]]


def test_equal_prompts_keep_their_slots_in_a_change():
    """Asked for speech beside them, and with their slots named in another order, both stay where they were."""
    audio, two = noise(1, 6000), ("sfx", "sfx")
    vectors, groups = asking(two)
    core = SlidingCore(Shuffling(), POLICY, 1, 3, vectors, (2, 0), groups)
    before = core.push(audio[:, :3000])
    vectors, groups = asking(("speech", *two))
    core.set_prompts(vectors, (1, 0, 2), groups)
    out = np.concatenate([before, core.push(audio[:, 3000:]), core.flush()], -1)
    first, second = (0, 2) if (out[0, 0, :2000] >= 0).all() else (2, 0)
    np.testing.assert_allclose(out[first], np.abs(audio), atol=1e-6)
    np.testing.assert_allclose(out[second], -np.square(audio), atol=1e-6)
    turned = before.shape[-1] + core.fade
    assert not out[1, :, : before.shape[-1]].any() and (out[1, :, turned:] == np.sign(audio[:, turned:])).all()


def test_a_change_before_the_first_output_is_no_change():
    audio, core = noise(2, 3000), make(names=OLD, slots=(0, 1), slot_count=4)
    core.push(audio[:, :799])
    vectors, groups = asking(NEW)
    core.set_prompts(vectors, (1, 3), groups)
    fresh = make(names=NEW, slots=(1, 3), slot_count=4)
    np.testing.assert_array_equal(streamed(core, audio[:, 799:], [600]), streamed(fresh, audio, [3000]))


def test_a_change_survives_a_saved_state():
    audio, core = noise(2, 6000), make(names=OLD, slots=(0, 1), slot_count=4)
    core.push(audio[:, : TURN + core.latency - 1])
    fresh = make(names=NEW, slots=(1, 3), slot_count=4)
    fresh.load(core.state)
    rest = streamed(fresh, audio[:, TURN + core.latency - 1 :], [512])
    np.testing.assert_array_equal(rest, switched(audio)[0][..., TURN:])


def test_slots_and_prompts_that_cannot_work():
    core = make(slot_count=4)
    vectors, groups = asking(OLD)
    for slots in ((0, 0), (0, 4), (-1, 2)):
        with pytest.raises(InputError, match=r"slots must be different and from 0 to 3, got \["):
            core.set_prompts(vectors, slots, groups)
    with pytest.raises(PromptError, match=r"2 sources need as many slots, got \[0\]"):
        core.set_prompts(vectors, (0,), groups)
    with pytest.raises(PromptError, match="this model takes vectors of prompts"):
        core.set_prompts(None, (0, 1), groups)
    with pytest.raises(PromptError, match="this model takes no prompts"):
        make("unconditional").set_prompts(vectors, (0, 1), groups)
    with pytest.raises(PromptError, match=r"3 sources need as many slots, got \[0, 1\]"):
        make("unconditional", slots=(0, 1))
    audio = noise(2, 2000)
    np.testing.assert_array_equal(streamed(core, audio, [700]), streamed(make(slot_count=4), audio, [700]))
