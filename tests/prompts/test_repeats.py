"""Equal prompts: as many as the model tells apart, and no more; the error names its limit and nothing has changed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CAUSAL, RATE, STACK, TUSS, noise, tiny_model

from ussfast import Separator
from ussfast.errors import PromptError
from ussfast.prompts.names import check_repeats, equal_groups

BLIND = replace(TUSS, cross_prompt=replace(STACK, rope=False))
LIMITS = {"causal": (CAUSAL, 4), "of two": (replace(CAUSAL, repeats=2), 2), "tuss": (TUSS, None), "blind": (BLIND, 1)}


def separator(config, prompts=()):
    return Separator.from_model(tiny_model(config), prompts, dtype="float32", device="cpu")


@pytest.mark.parametrize("kind", LIMITS)
def test_as_many_as_are_told_apart(kind):
    """At the limit all stems differ; one more is refused wherever prompts come in."""
    config, most = LIMITS[kind]
    ours, audio, count = separator(config), noise(1, 3000), most or 6
    stems = ours.separate(audio, RATE, prompts=("bass", *["sfx"] * count)).stems[1:]
    assert len(stems) == count
    for i, one in enumerate(stems):
        assert all(np.abs(one - other).max() > 1e-4 for other in stems[:i])
    if most is None:
        return
    more, session = ["sfx"] * (most + 1), ours.session(RATE, prompts="bass", max_prompts=9)
    said = rf"^{most + 1} equal prompts \(sfx\).* {'once' if most == 1 else f'at most {most} times'} for one prompt$"
    for refused in (
        lambda: separator(config, more),
        lambda: ours.labels(more),
        lambda: ours.separate(audio, RATE, prompts=["bass", *more]),
        lambda: ours.session(RATE, prompts=more),
        lambda: session.set_prompts(more),
    ):
        with pytest.raises(PromptError, match=said):
            refused()


def test_a_refused_change_leaves_a_stream_as_it_was():
    ours, audio = separator(CAUSAL, ("sfx", "sfx")), noise(1, 4000)
    session = ours.session(RATE, max_prompts=6)
    first = session.push(audio[:, :2000])
    with pytest.raises(PromptError, match="5 equal prompts"):
        session.set_prompts(("sfx",) * 5)
    stems = np.concatenate([first.stems, session.push(audio[:, 2000:]).stems, session.flush().stems], -1)
    np.testing.assert_allclose(stems, ours.separate(audio, RATE).stems, atol=1e-5)


def test_a_pool_refuses_as_a_session_does():
    pool = separator(CAUSAL).pool(2, RATE, max_prompts=6)
    with pytest.raises(PromptError, match="5 equal prompts"):
        pool.join(("speech",) * 5)
    assert pool.join(("speech",) * 4 + ("bass",)) == 0


def test_names_of_one_vector_are_equal():
    """The same clip under other names: counted together, and in stereo told apart in both channels alike."""
    ours, clip = separator(CAUSAL), noise(1, 4000, seed=1)
    names = ("rex", "dog", "pet", "cur", "pup")
    for name in names:
        ours.enroll(name, [clip], RATE)
    with pytest.raises(PromptError, match=r"^5 equal prompts \(rex, dog, pet, cur, pup\)"):
        ours.separate(clip, RATE, prompts=names)
    audio = noise(2, 4000)
    named = ours.separate(audio, RATE, prompts=("rex", "speech", "dog"))
    assert named.labels == ("rex", "speech", "dog")
    np.testing.assert_array_equal(named.stems, ours.separate(audio, RATE, prompts=("rex", "speech", "rex")).stems)


def test_the_model_itself_refuses():
    model = tiny_model(CAUSAL)
    vectors = model.prompt_vectors(("sfx",) * 5 + ("speech",))
    with pytest.raises(PromptError, match="5 prompts are equal, the model tells at most 4 apart"):
        model.condition(vectors)
    batch = torch.stack((model.prompt_vectors(("speech", "sfx") * 3), vectors))
    with pytest.raises(PromptError, match="5 prompts are equal"):
        model.condition(batch)
    assert model.condition(batch[:1]).scale.shape[:2] == (1, 6)


def test_groups_and_limits_of_any_kind():
    assert equal_groups("abcab") == ((0, 3), (1, 4))
    assert equal_groups(()) == ()
    check_repeats(("a", "b", "a"), 2)
    check_repeats(("a",) * 9, None)
    with pytest.raises(PromptError, match=r"2 equal prompts \(a, b\)"):
        check_repeats(("a", "b"), 1, [0.0, -0.0])
