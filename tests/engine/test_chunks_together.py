"""Chunks of recordings that a causal model computes together give what they give alone."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, RATE, noise, tiny_model

from ussfast import Separator
from ussfast.engine import batching
from ussfast.errors import OutOfMemoryError

PAIRS = (("speech", "sfx"), ("drums", "bass"), ("sfx", "sfx"), ("vocals",))


def separators(batch=4, **asked):
    asked = {"device": "cpu", "prompts": PAIRS[0], "segment": 0.1, "overlap": 0.0} | asked
    return [Separator.from_model(tiny_model(CAUSAL), batch=count, **asked) for count in (1, batch)]


def rows_of(separator):
    """How many rows each call of the network gets."""
    rows, real = [], separator.engine.model.advance
    separator.engine.model.advance = lambda spec, *rest: rows.append(len(spec)) or real(spec, *rest)
    return rows


def at_once(separator, audios, prompts):
    """Stems of recordings in threads that begin together."""
    begin = threading.Barrier(len(audios))

    def one(audio, names):
        begin.wait(60)
        return separator.separate(audio, RATE, prompts=names).stems

    with ThreadPoolExecutor(len(audios)) as pool:
        return list(pool.map(one, audios, prompts))


def same(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * max(1e-3, np.abs(wanted).max(initial=0.0)))


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9000), st.sampled_from(PAIRS)), min_size=1, max_size=5),
    st.sampled_from(["independent", "linked"]),
)
def test_any_recordings(asked, channels):
    alone, together = separators(channels=channels)
    audios = [noise(count, samples, seed) for seed, (count, samples, _) in enumerate(asked)]
    prompts = [names for _, _, names in asked]
    for got, audio, names in zip(at_once(together, audios, prompts), audios, prompts, strict=True):
        same(got, alone.separate(audio, RATE, prompts=names).stems)


def test_they_are_computed_together(monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 1.0)
    alone, together = separators()
    rows, audios = rows_of(together), [noise(1 + seed % 2, 20000, seed) for seed in range(3)]
    prompts = PAIRS[:3]
    for got, audio, names in zip(at_once(together, audios, prompts), audios, prompts, strict=True):
        same(got, alone.separate(audio, RATE, prompts=names).stems)
    assert max(rows) == 4 and rows.count(4) > 0.8 * len(rows)  # one, two and one channel


def test_other_numbers_of_prompts_go_by_themselves():
    alone, together = separators()
    rows, audios = rows_of(together), [noise(1, 9000, seed) for seed in range(2)]
    prompts = (PAIRS[0], PAIRS[3])
    for got, audio, names in zip(at_once(together, audios, prompts), audios, prompts, strict=True):
        same(got, alone.separate(audio, RATE, prompts=names).stems)
    assert set(rows) == {1}


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 1.0)
    alone, together = separators()
    rows, real = [], together.engine.model.advance

    def small(spec, *rest):
        rows.append(len(spec))
        if len(spec) > 2:
            raise MemoryError
        return real(spec, *rest)

    together.engine.model.advance = small
    audios = [noise(1, 20000, seed) for seed in range(4)]
    for got, audio in zip(at_once(together, audios, [PAIRS[0]] * 4), audios, strict=True):
        same(got, alone.separate(audio, RATE).stems)
    assert max(rows) > 2 and together.engine._advancing._batches.most == max(n for n in rows if n > 2) // 2


def test_trouble_of_one_row_is_everybodys_who_was_with_it_and_nobody_elses():
    _, together = separators()
    real = together.engine.model.advance

    def wrong(spec, *rest):
        raise RuntimeError("as from a device")

    together.engine.model.advance = wrong
    with pytest.raises(RuntimeError, match="as from a device"):
        together.separate(noise(1, 3000), RATE)
    together.engine.model.advance = real
    assert np.abs(together.separate(noise(1, 3000), RATE).stems).max() > 0


def test_a_chunk_that_does_not_fit_alone_is_tried_with_less(monkeypatch):
    _, together = separators(segment=0.4)
    frames, real = [], together.engine.model.advance

    def small(spec, *rest):
        frames.append(spec.shape[1])
        if spec.shape[1] > max(frames) * 0.7:
            raise MemoryError
        return real(spec, *rest)

    together.engine.model.advance = small
    assert np.abs(together.separate(noise(1, 30000), RATE).stems).max() > 0
    together.engine.model.advance = lambda *args: (_ for _ in ()).throw(MemoryError())
    with pytest.raises(OutOfMemoryError, match="also with a segment of"):
        together.separate(noise(1, 30000), RATE)


def test_one_recording_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 1000.0)
    alone, together = separators()
    audio = noise(2, 20000)
    same(together.separate(audio, RATE).stems, alone.separate(audio, RATE).stems)


def test_an_engine_goes_with_its_last_reference():
    one, _ = separators()
    gone = weakref.ref(one.engine.model)
    gc.collect()
    gc.disable()
    try:
        del one
        assert gone() is None
    finally:
        gc.enable()
