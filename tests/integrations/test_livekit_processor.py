"""The processor of frames of LiveKit."""

import pytest
from tiny import CAUSAL, RATE, noise, tiny_model

from ussfast import Separator
from ussfast.integrations.config import FilterConfig
from ussfast.integrations.live_filter import LiveFilter
from ussfast.streaming.live.pcm import encode

rtc = pytest.importorskip("livekit.rtc", reason="livekit is not installed")

from ussfast.integrations.livekit import SeparationProcessor  # noqa: E402

SEPARATOR = Separator.from_model(tiny_model(CAUSAL), dtype="float32")
SIZE = 160


def frames(samples=4000, rate=RATE, channels=1, seed=0):
    audio = noise(channels, samples, seed)
    return [
        rtc.AudioFrame(encode(audio[:, at : at + SIZE], "s16le")[0], rate, channels, SIZE, userdata={"at": at})
        for at in range(0, samples - SIZE + 1, SIZE)
    ]


def heard(frames):
    return [bytes(frame.data) for frame in frames]


def expected(frames, keep="speech"):
    live = LiveFilter(SEPARATOR, frames[0].sample_rate, keep, frames[0].num_channels)
    return [live.process(data) for data in heard(frames)]


@pytest.mark.parametrize("rate, channels", [(RATE, 1), (24000, 2)])
def test_frames_come_out_as_they_went_in(rate, channels):
    given = frames(rate=rate, channels=channels)
    processor = SeparationProcessor(SEPARATOR, FilterConfig("speech", format="f32le"))
    assert isinstance(processor, rtc.FrameProcessor) and processor.enabled
    out = [processor._process(frame) for frame in given]
    assert heard(out) == expected(given)
    for one, frame in zip(out, given, strict=True):
        form = (one.sample_rate, one.num_channels, one.samples_per_channel, one.userdata)
        assert form == (rate, channels, SIZE, frame.userdata)


def test_a_frame_that_has_more_data_than_samples():
    whole = noise(1, 200)
    given = rtc.AudioFrame(encode(whole, "s16le")[0], RATE, 1, SIZE)
    out = SeparationProcessor(SEPARATOR, "speech")._process(given)
    assert len(out.data) == out.samples_per_channel == SIZE


def test_frames_of_another_form_begin_another_stream():
    processor = SeparationProcessor(SEPARATOR, "speech")
    processor.live.set_prompts("drums")
    processor.live.bypass = True
    processor.live.bypass = False
    for given in (frames(), frames(rate=48000, channels=2), frames(rate=48000, channels=1)):
        out = [processor._process(frame) for frame in given]
        assert heard(out)[3:] == pytest.approx(expected(given, "drums")[3:])


def test_another_voice_begins_another_stream_and_news_of_the_same_do_not():
    given = frames()
    processor = SeparationProcessor(SEPARATOR, "speech")
    about = {"room_name": "room", "participant_identity": "ann", "publication_sid": "1"}
    out = []
    processor._on_stream_info_updated(**about)
    for number, frame in enumerate(given):
        if number == 10:
            processor._on_stream_info_updated(**about)
        out.append(processor._process(frame))
    assert heard(out) == expected(given)
    processor._on_stream_info_updated(**about | {"participant_identity": "bob"})
    assert heard([processor._process(frame) for frame in given]) == expected(given)
    processor._on_credentials_updated(token="t", url="wss://example")
    processor._on_stream_info_cleared()
    processor._close()
    assert heard([processor._process(frame) for frame in given]) == expected(given)


def test_it_is_turned_off_and_on():
    given = frames()
    processor = SeparationProcessor(SEPARATOR, "speech")
    for frame in given[:5]:
        processor._process(frame)
    processor.enabled = False
    assert processor.enabled is False and processor._process(given[5]) is given[5]
    processor.enabled = True
    assert heard([processor._process(frame) for frame in given]) == expected(given)
