"""The track of aiortc that wraps another."""

import asyncio
import fractions

import numpy as np
import pytest
from tiny import CAUSAL, RATE, noise, tiny_model

from ussfast import Separator
from ussfast.errors import AudioError, InputError, PromptError
from ussfast.integrations.live_filter import LiveFilter
from ussfast.streaming.live.pcm import encode

aiortc = pytest.importorskip("aiortc", reason="aiortc is not installed")

from av import AudioFrame  # noqa: E402

from ussfast.integrations.aiortc import SeparatedTrack  # noqa: E402

SEPARATOR = Separator.from_model(tiny_model(CAUSAL), dtype="float32")
SIZE = 160
LAYOUTS = {1: "mono", 2: "stereo"}


class Source(aiortc.MediaStreamTrack):
    """Frames that are there, and then the end."""

    kind = "audio"

    def __init__(self, frames):
        super().__init__()
        self.frames = iter(frames)

    async def recv(self):
        frame = next(self.frames, None)
        if frame is None:
            self.stop()
            raise aiortc.MediaStreamError
        return frame


def frames(form="s16", rate=RATE, channels=1, samples=3200):
    audio, made = noise(channels, samples), []
    for at in range(0, samples, SIZE):
        chunk = audio[:, at : at + SIZE]
        if form.startswith("s16"):
            chunk = np.ascontiguousarray(np.frombuffer(encode(chunk, "s16le")[0], "<i2").reshape(-1, channels).T)
        rows = chunk if form.endswith("p") else np.ascontiguousarray(chunk.T).reshape(1, -1)
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(rows), format=form, layout=LAYOUTS[channels])
        frame.sample_rate, frame.pts, frame.time_base = rate, at, fractions.Fraction(1, rate)
        made.append((frame, chunk))
    return made


async def received(track):
    out = []
    while True:
        try:
            out.append(await track.recv())
        except aiortc.MediaStreamError:
            return out


@pytest.mark.parametrize("form", ["s16", "s16p", "flt", "fltp"])
@pytest.mark.parametrize("rate, channels", [(RATE, 1), (48000, 2)])
def test_frames_come_out_as_they_went_in(form, rate, channels):
    given = frames(form, rate, channels)
    live = LiveFilter(SEPARATOR, rate, "speech", channels)
    expected = [live.process(chunk) for _, chunk in given]

    async def call():
        track = SeparatedTrack(Source([frame for frame, _ in given]), SEPARATOR, "speech")
        out = await received(track)
        assert track.readyState == "ended"
        return out

    out = asyncio.run(call())
    assert len(out) == len(given) and any(chunk.any() for chunk in expected)
    for one, (frame, _), chunk in zip(out, given, expected, strict=True):
        rows = chunk if form.endswith("p") else chunk.T.reshape(1, -1)
        np.testing.assert_array_equal(one.to_ndarray(), rows)
        assert (one.format.name, one.sample_rate, one.samples) == (form, rate, SIZE)
        assert (one.layout.name, one.pts, one.time_base) == (frame.layout.name, frame.pts, frame.time_base)


def test_both_are_stopped_together():
    async def call():
        source = Source([frame for frame, _ in frames()])
        track = SeparatedTrack(source, SEPARATOR, "speech")
        await track.recv()
        track.stop()
        assert source.readyState == track.readyState == "ended"
        with pytest.raises(aiortc.MediaStreamError):
            await track.recv()

    asyncio.run(call())


def test_what_cannot_be_wrapped():
    async def call():
        with pytest.raises(InputError, match="of video"):
            SeparatedTrack(aiortc.VideoStreamTrack(), SEPARATOR, "speech")
        with pytest.raises(PromptError, match="speach"):
            SeparatedTrack(Source([]), SEPARATOR, "speach")
        odd = AudioFrame(format="s32", layout="mono", samples=SIZE)
        odd.sample_rate = RATE
        with pytest.raises(AudioError, match="s32 .* one of s16, s16p, flt, fltp"):
            await SeparatedTrack(Source([odd]), SEPARATOR, "speech").recv()

    asyncio.run(call())


def test_the_encoder_takes_the_frames():
    """aiortc's own Opus, there and back; without a connection, so that no network is needed."""
    from aiortc.codecs.opus import OpusDecoder, OpusEncoder
    from aiortc.jitterbuffer import JitterFrame

    given = [frame for frame, _ in frames(rate=48000, channels=2, samples=9600)]
    out = asyncio.run(received(SeparatedTrack(Source(given), SEPARATOR, "speech")))
    encoder, decoder, heard = OpusEncoder(), OpusDecoder(), []
    for frame in out:
        packets, stamp = encoder.encode(frame)
        for packet in packets:
            heard += [made.to_ndarray() for made in decoder.decode(JitterFrame(packet, stamp))]
    assert sum(part.size for part in heard) >= 2 * 9600 * 0.8
    assert max(np.abs(part).max() for part in heard) > 50
