"""The filter for live PCM: what a session gives, in the form and length of what goes in."""

import threading
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, PROMPTS, RATE, UNCONDITIONAL, noise, tiny_model

from ussfast import Separator
from ussfast.errors import AudioError, InputError, PromptError
from ussfast.integrations.config import FilterConfig
from ussfast.integrations.live_filter import LiveFilter
from ussfast.streaming.live.pcm import decode, encode

SEPARATOR = Separator.from_model(tiny_model(CAUSAL), dtype="float32")
FORMS = ("s16le", "f32le", "int16", "float32")
sizes = st.lists(st.sampled_from((0, 1, 2, 63, 64, 65, 127, 160, 257, 1009)), max_size=12)


def cut(audio, sizes):
    """In chunks of these sizes, and the rest."""
    at = 0
    for size in sizes:
        yield audio[..., at : at + size]
        at += size
    yield audio[..., at:]


def formed(chunk, form):
    """float32 [channels, n] as a caller has it."""
    if form.endswith("le"):
        return encode(chunk, form)[0]
    return decode(encode(chunk, "s16le")[0], "s16le", len(chunk)) if form == "float32" else integers(chunk)


def integers(chunk):
    return np.ascontiguousarray(np.frombuffer(encode(chunk, "s16le")[0], "<i2").reshape(-1, len(chunk)).T)


def floats(out, form, channels):
    """What came out, as float32 [channels, n]."""
    if form.endswith("le"):
        return decode(out, form, channels)
    return out / np.float32(2**15) if form == "int16" else out


def filtered(live, chunks):
    """All that comes out, and the rest."""
    return [*map(live.process, chunks), live.flush()]


def separated(audio, sizes, rate, keep, asked=None, separator=SEPARATOR):
    """The sum of stems of a session that gets the same chunks."""
    session = separator.session(rate, prompts=asked or keep, channels=len(audio))
    pieces = [*map(session.push, cut(audio, sizes)), session.flush()]
    return sum(np.concatenate([piece[name] for piece in pieces], 1) for name in keep)


@given(
    sizes=sizes,
    rate=st.sampled_from((RATE, 11025, 48000)),
    channels=st.integers(1, 2),
    form=st.sampled_from(FORMS),
    keep=st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=3, unique=True),
)
@settings(max_examples=40, deadline=None)
def test_it_gives_what_a_session_gives(sizes, rate, channels, form, keep):
    audio = noise(channels, 3000)
    config = FilterConfig(tuple(keep), format=form if form.endswith("le") else "s16le")
    live = LiveFilter(SEPARATOR, rate, config, channels)
    chunks = [formed(chunk, form) for chunk in cut(audio, sizes)]
    out = filtered(live, chunks)
    assert [len(a) for a in out[:-1]] == [len(chunk) for chunk in chunks]
    assert all(type(a) is type(chunk) for a, chunk in zip(out, chunks, strict=False))
    if not form.endswith("le"):
        assert {a.dtype for a in out} == {np.dtype(form)} and {a.ndim for a in out} == {2}
    heard = np.concatenate([floats(part, form, channels) for part in out], 1)
    late = live.latency_samples
    assert heard.shape[1] == 3000 + late and not heard[:, :late].any()
    given = audio if form == "f32le" else floats(formed(audio, "int16"), "int16", channels)
    expected = separated(given, sizes, rate, keep)
    if form in ("s16le", "int16"):
        expected = np.clip(expected, -1, 1 - 2**-15)
        assert np.abs(heard[:, late:] - expected).max() <= 0.5001 * 2**-15
    else:
        np.testing.assert_array_equal(heard[:, late:], expected)


def test_one_channel_may_have_no_axis_of_its_own():
    audio = noise(1, 900)
    live = LiveFilter(SEPARATOR, RATE, "speech")
    out = filtered(live, [audio[0, :500], audio[0, 500:]])
    assert [part.shape for part in out] == [(500,), (400,), (live.latency_samples,)]
    expected = separated(audio, [500], RATE, ["speech"])[0]
    np.testing.assert_array_equal(np.concatenate(out)[live.latency_samples :], expected)


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_the_latency_is_that_of_the_session(rate):
    live = LiveFilter(SEPARATOR, rate, "speech")
    assert 0 <= live.latency - SEPARATOR.session(rate, prompts="speech").latency < 1.001 / rate


def test_the_residual_is_kept_and_what_is_dropped_is_not():
    audio = noise(2, 2000)
    live = LiveFilter(SEPARATOR, RATE, FilterConfig("residual", drop="drums"), 2)
    out = np.concatenate(filtered(live, [audio]), 1)[:, live.latency_samples :]
    np.testing.assert_allclose(out, audio - separated(audio, [], RATE, ["drums"]), atol=1e-6)


def test_what_is_dropped_is_asked_for():
    live = LiveFilter(SEPARATOR, RATE, FilterConfig("speech", drop=("drums", "bass")))
    assert live.session.labels == ("speech", "drums", "bass")


@pytest.mark.parametrize("limit", [0, 6.0, 40])
def test_the_limit_of_attenuation_is_that_of_a_separator(limit):
    audio = noise(1, 2000)
    live = LiveFilter(SEPARATOR, RATE, FilterConfig("speech", max_attenuation=limit))
    out = np.concatenate(filtered(live, [audio]), 1)[:, live.latency_samples :]
    limited = Separator.from_model(tiny_model(CAUSAL), dtype="float32", max_attenuation=limit)
    np.testing.assert_allclose(out, separated(audio, [], RATE, ["speech"], separator=limited), atol=1e-6)


def test_a_model_with_sources_of_its_own():
    separator = Separator.from_model(tiny_model(UNCONDITIONAL), segment=0.4, overlap=0.15)
    first, second, third = separator.info.labels
    live = LiveFilter(separator, RATE, [first, third])
    audio = noise(1, 6000)
    out = np.concatenate(filtered(live, list(cut(audio, [1000] * 5))), 1)[:, live.latency_samples :]
    session = separator.session(RATE, channels=1)
    pieces = [*map(session.push, cut(audio, [1000] * 5)), session.flush()]
    expected = sum(np.concatenate([piece[name] for piece in pieces], 1) for name in (first, third))
    np.testing.assert_allclose(out, expected, atol=1e-6)
    with pytest.raises(PromptError, match="no source 'speech'; there are"):
        live.set_prompts("speech")


@given(sizes=sizes, share=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_prompts_change_while_it_runs_from_another_thread(sizes, share):
    """Behind the fade it is a stream that had the new prompts all along, and before it one that had the former ones."""
    audio, sizes = noise(1, 4000), [*sizes, 0]
    live = LiveFilter(SEPARATOR, RATE, FilterConfig("speech", drop="bass"))
    out, at = [], 0
    for number, chunk in enumerate(cut(audio, sizes)):
        if number == round(share * (len(sizes) - 1)):
            thread = threading.Thread(target=live.set_prompts, args=(["drums", "bass"], ()))
            thread.start()
            thread.join()
            change = at
        out.append(live.process(chunk))
        at += chunk.shape[1]
    out = np.concatenate([*out, live.flush()], 1)[:, live.latency_samples :]
    before, after = separated(audio, [], RATE, ["speech"]), separated(audio, [], RATE, ["drums", "bass"])
    first = max(0, change - live.latency_samples)
    np.testing.assert_allclose(out[:, :first], before[:, :first], atol=1e-5)
    late = change + 2 * live.latency_samples + 80
    np.testing.assert_allclose(out[:, late:], after[:, late:], atol=1e-5)


def test_nothing_changes_where_the_prompts_cannot_be():
    audio = noise(1, 3000)
    live = LiveFilter(SEPARATOR, RATE, "speech")
    out = [live.process(audio[:, :1000])]
    for keep, drop, says in (
        ("speach", (), "speach"), ((), "bass", "nothing is kept"), ("bass", "bass", "named twice"),
        ("residual", (), "name a prompt to drop"), ("bass", "residual", "dropped otherwise"),
        (list(PROMPTS), (), "max_prompts=8"), (7, (), "not int"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            live.set_prompts(keep, drop)
    out += [live.process(audio[:, 1000:]), live.flush()]
    expected = separated(audio, [1000], RATE, ["speech"])
    np.testing.assert_array_equal(np.concatenate(out, 1)[:, live.latency_samples :], expected)


def test_a_voice_that_is_enrolled_while_it_runs():
    separator = Separator.from_model(tiny_model(CAUSAL), dtype="float32")
    separator.enroll("caller", [noise(1, RATE, seed=5)[0]], RATE)
    live = LiveFilter(separator, RATE, "caller")
    audio = noise(1, 6000)
    before = live.process(audio[:, :2000])
    thread = threading.Thread(target=live.enroll, args=("caller", [noise(1, RATE, seed=6)[0]], RATE))
    thread.start()
    thread.join()
    out = np.concatenate([before, live.process(audio[:, 2000:]), live.flush()], 1)[:, live.latency_samples :]
    behind = 2000 + 2 * live.latency_samples
    expected = separated(audio, [2000], RATE, ["caller"], separator=separator)  # the new voice
    np.testing.assert_allclose(out[:, behind:], expected[:, behind:], atol=1e-5)
    assert np.abs(out[:, :1000] - expected[:, :1000]).max() > 1e-4
    live.enroll("guest", [noise(1, RATE, seed=7)[0]], RATE)
    live.set_prompts("guest")
    assert live.process(audio).shape == audio.shape and live.session.labels == ("guest",)


def test_streams_follow_each_other():
    audio = noise(1, 2000)
    live = LiveFilter(SEPARATOR, RATE, "speech")
    first = np.concatenate(filtered(live, [audio]), 1)
    again = np.concatenate(filtered(live, [audio]), 1)
    live.process(audio)
    live.reset()
    third = np.concatenate(filtered(live, [audio]), 1)
    assert first.tobytes() == again.tobytes() == third.tobytes()
    assert LiveFilter(SEPARATOR, RATE, "speech").flush() == b""


def test_chunks_that_are_none_leave_the_stream_as_it_was():
    audio = noise(2, 2000)
    live = LiveFilter(SEPARATOR, RATE, "speech", 2)
    out = [live.process(audio[:, :700])]
    for chunk, says in (
        (b"abc", "3 bytes are no whole frames: 2 channels of s16le make frames of 4 bytes"),
        (audio.astype(np.float64), "int16 or float32, are needed, not float64"),
        ("abcd", "not str"), (None, "not NoneType"), ([0.0], "not list"),
        (audio[:1], "2 channels, the chunk 1"), (audio[0], "2 channels, the chunk 1"), (audio[None], "shape must be"),
    ):  # fmt: skip
        with pytest.raises((AudioError, InputError), match=says):
            live.process(chunk)
    out += [live.process(audio[:, 700:]), live.flush()]
    expected = separated(audio, [700], RATE, ["speech"])
    np.testing.assert_array_equal(np.concatenate(out, 1)[:, live.latency_samples :], expected)


def test_damaged_chunks_are_silence_in_the_dry_sound_too():
    live = LiveFilter(SEPARATOR, RATE, "speech")
    live.bypass = True
    bad = np.full((1, 500), np.nan, np.float32)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        out = np.concatenate([live.process(bad), live.process(np.ones((1, 500), np.float32)), live.flush()], 1)
    assert any("500 samples was silenced" in str(one.message) for one in told)
    late = live.latency_samples
    assert not out[:, late : late + 500].any() and (out[:, late + 500 :] == 1).all()


def test_what_is_clipped_is_counted():
    live = LiveFilter(SEPARATOR, RATE, FilterConfig(("speech", "residual"), max_attenuation=0))
    loud = np.full((1, 300), -32768, np.int16)
    out = np.concatenate(filtered(live, [loud]), 1)
    assert (out[:, live.latency_samples :] == -32768).all() and live.clipped == 0
    live = LiveFilter(SEPARATOR, RATE, FilterConfig(("speech", "residual"), max_attenuation=0, format="f32le"))
    assert np.frombuffer(live.process(np.full(300, 4, "<f4").tobytes()), "<f4").max() == 4


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"keep": "speech", "max_attenuation": -1}, "max_attenuation must be 0 to 1000"),
        ({"keep": "speech", "max_attenuation": float("nan")}, "finite"),
        ({"keep": "speech", "format": "u8"}, "must be one of"),
        ({"keep": "speech", "fade_ms": 0}, "fade_ms must be 1 to 1000"),
        ({"keep": "speech", "max_late_s": 0}, "max_late_s must be 0.01 to 60"),
        ({"keep": 3}, "not int"),
        ({"keep": ["speech", 3]}, "not int"),
    ],
)
def test_settings_that_cannot_be(settings, says):
    with pytest.raises(InputError, match=says):
        FilterConfig(**settings)


def test_a_filter_that_cannot_be_opened():
    for arguments, says in (
        ((RATE, "speach"), "speach"), ((RATE, ()), "nothing is kept"), ((0, "speech"), "rate"),
        ((RATE, "speech", 0), "channels"), ((RATE, 5), "not int"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            LiveFilter(SEPARATOR, *arguments)
