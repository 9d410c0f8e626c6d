"""Many streams in one pool: each gets what it would get alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, PROMPTS, RATE, TUSS, noise, tiny_model

from ussfast import Separator
from ussfast.errors import InputError, PromptError

SEPARATOR = Separator.from_model(tiny_model(CAUSAL), ("speech", "drums"), dtype="float32")
prompts = st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=4)


def alone(audio, names, rate, changes=()):
    """Stems of a session; changes: (at, names) between pushes, chunks as in the pool do not matter."""
    session, at, parts = SEPARATOR.session(rate, prompts=names), 0, []
    for end, following in changes:
        parts.append(session.push(audio[:, at:end]))
        session.set_prompts(following)
        at = end
    return [*parts, session.push(audio[:, at:]), session.flush()]


@given(data=st.data(), rate=st.sampled_from((RATE, 16000)), channels=st.integers(1, 2))
@settings(max_examples=12, deadline=None)
def test_streams_do_not_hear_one_another(data, rate, channels):
    """They come and go, stand still, and have as many prompts as they like."""
    pool = SEPARATOR.pool(3, rate, channels=channels)
    streams, audio, taken, pieces, names = {}, {}, {}, {}, {}
    ended = []
    for turn in range(data.draw(st.integers(3, 9))):
        if len(pool) < 3 and data.draw(st.booleans()):
            mine = tuple(data.draw(prompts if channels == 1 else st.sampled_from((("sfx",), ("bass", "speech")))))
            stream = pool.join(mine)
            streams[stream], audio[stream], taken[stream] = turn, noise(channels, 4000, turn), 0
            pieces[stream], names[stream] = [], mine
        chunks = {}
        for stream in pool.streams:
            count = data.draw(st.sampled_from((0, 1, 30, 64, 200, 700)))
            if count:
                chunks[stream] = audio[stream][:, taken[stream] : taken[stream] + count]
                taken[stream] = min(4000, taken[stream] + count)
        for stream, piece in pool.push(chunks).items():
            pieces[stream].append(piece)
        if len(pool) and data.draw(st.integers(0, 3)) == 0:
            stream = data.draw(st.sampled_from(pool.streams))
            pieces[stream].append(pool.leave(stream))
            ended.append((audio[stream][:, : taken[stream]], names[stream], pieces[stream]))
    for stream in pool.streams:
        pieces[stream].append(pool.leave(stream))
        ended.append((audio[stream][:, : taken[stream]], names[stream], pieces[stream]))
    for heard, mine, given_ in ended:
        expected = SEPARATOR.session(rate, prompts=mine)
        parts = [expected.push(heard), expected.flush()]
        got = np.concatenate([p.stems for p in given_], -1)
        want = np.concatenate([p.stems for p in parts], -1)
        assert got.shape == want.shape == (len(mine), channels, heard.shape[1])
        assert np.abs(got - want).max(initial=0) < 1e-5


def test_prompts_of_one_stream_change():
    pool, audio = SEPARATOR.pool(2, RATE, channels=1), noise(1, 3000)
    first, second = pool.join(("speech", "drums")), pool.join(("sfx",))
    pieces = [pool.push({first: audio[:, :1000], second: audio})[first]]
    pool[first].set_prompts(("bass", "speech", "vocals"))
    pieces += [pool.push({first: audio[:, 1000:]})[first], pool.leave(first)]
    expected = alone(audio, ("speech", "drums"), RATE, [(1000, ("bass", "speech", "vocals"))])
    assert [p.labels for p in pieces] == [p.labels for p in expected]
    for ours, theirs in zip(pieces, expected, strict=True):
        np.testing.assert_allclose(ours.stems, theirs.stems, atol=1e-5)
    assert pool.streams == (second,)


def test_a_stream_begins_again_or_moves():
    pool, audio = SEPARATOR.pool(2, RATE), noise(1, 2000)
    first, second = pool.join(), pool.join()
    before = pool.push({first: audio, second: audio})
    pool.reset(first)
    again = pool.push({first: audio})[first]
    np.testing.assert_allclose(again.stems, before[first].stems, atol=1e-6)
    session = SEPARATOR.session(RATE, channels=1)
    session.state = pool[second].state
    moved, stayed = session.push(audio), pool.push({second: audio})[second]
    np.testing.assert_allclose(moved.stems, stayed.stems, atol=1e-5)
    assert pool.push({}) == {}
    pool[first].state = pool[second].state
    both = pool.push({first: audio, second: audio})
    np.testing.assert_array_equal(both[first].stems, both[second].stems)


def test_one_bad_chunk_changes_no_stream():
    pool, audio = SEPARATOR.pool(2, RATE, on_bad="raise"), noise(1, 2000)
    first, second = pool.join(), pool.join()
    pool.push({first: audio[:, :500], second: audio[:, :300]})
    bad = audio[:, 500:].copy()
    bad[0, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        pool.push({second: audio[:, 300:], first: bad})
    pool.push({second: audio[:, 300:]})
    pool.push({first: audio[:, 500:]})
    done = [pool.leave(stream) for stream in (first, second)]
    np.testing.assert_allclose(done[0].stems[..., -500:], done[1].stems[..., -500:], atol=1e-5)


def test_what_a_pool_refuses():
    pool = SEPARATOR.pool(2, RATE, channels=2)
    with pytest.raises(InputError, match="there is no stream 0; there are none"):
        pool.push({0: noise(2, 10)})
    with pytest.raises(PromptError, match="unknown prompt"):
        pool.join("speach")
    with pytest.raises(InputError, match="max_prompts=5"):
        pool.join(("speech", "sfx", "drums", "bass", "other"))
    with pytest.raises(InputError, match="one channel"):
        pool.join(("sfx", "sfx"))
    assert (pool.join(), pool.join()) == (0, 1)
    with pytest.raises(InputError, match="larger size"):
        pool.join()
    with pytest.raises(InputError, match="2 channels, the chunk 1"):
        pool.push({0: noise(1, 10)})
    with pytest.raises(InputError, match="one channel"):
        pool[0].set_prompts(("sfx", "sfx"))
    with pytest.raises(InputError, match="from 1 to"):
        SEPARATOR.pool(0, RATE)
    with pytest.raises(InputError, match="needs a causal model"):
        Separator.from_model(tiny_model(TUSS), ("speech",)).pool(2, RATE)


@pytest.mark.parametrize(
    "act",
    [
        lambda session: session.push(noise(1, 500, 5)),
        lambda session: session.flush(),
        lambda session: session.set_prompts(("bass", "vocals")),
        lambda session: session.reset(),
        lambda session: session.state,
        lambda session: setattr(session, "state", SEPARATOR.session(RATE, channels=1).state),
        lambda session: session.core.reset(),
    ],
)
def test_a_session_that_left_does_not_reach_the_next_stream(act):
    pools = [SEPARATOR.pool(1, RATE) for _ in range(2)]
    pieces, audio = [], noise(1, 3000)
    for pool in pools:
        kept = pool[pool.join()]
        pool.push({0: audio[:, :700]})
        pool.leave(0)
        stream = pool.join(("speech", "drums"))
        pieces.append([pool.push({stream: audio[:, :1000]})[stream]])
        if pool is pools[0]:
            with pytest.raises(InputError, match="has left its pool"):
                act(kept)
            with pytest.raises(InputError, match="there is no stream 0; there are"):
                pool.push({0: audio})
        pieces[-1] += [pool.push({stream: audio[:, 1000:]})[stream], pool.leave(stream)]
    for ours, theirs in zip(*pieces, strict=True):
        assert ours.labels == theirs.labels
        np.testing.assert_array_equal(ours.stems, theirs.stems)
