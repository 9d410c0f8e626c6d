"""The filter in Pipecat's own input transport."""

import asyncio

import numpy as np
import pytest
from tiny import CAUSAL, RATE, noise, tiny_model

from ussfast import Separator
from ussfast.errors import InputError, PromptError
from ussfast.integrations.config import FilterConfig
from ussfast.integrations.live_filter import LiveFilter
from ussfast.streaming.live.pcm import encode

pytest.importorskip("pipecat.transports.base_input", reason="pipecat-ai is not installed")

from pipecat.frames.frames import FilterEnableFrame, FilterUpdateSettingsFrame, InputAudioRawFrame
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_transport import TransportParams

from ussfast.integrations.pipecat import SeparationFilter

SEPARATOR = Separator.from_model(tiny_model(CAUSAL), dtype="float32")
SIZE = 160  # samples of a frame


def frames(samples, channels=1, seed=0):
    data = encode(noise(channels, samples, seed), "s16le")[0]
    width = 2 * channels * SIZE
    return [data[at : at + width] for at in range(0, len(data), width)]


def expected(chunks, keep, rate=RATE, channels=1):
    live = LiveFilter(SEPARATOR, rate, keep, channels)
    return [live.process(chunk) for chunk in chunks]


async def run(separation, chunks, rate=RATE, orders=()):
    """What it makes of them; orders: frames of control, by the number of the chunk that they come before."""
    await separation.start(rate)
    out = []
    for number, chunk in enumerate(chunks):
        for frame in dict(orders).get(number, ()):
            await separation.process_frame(frame)
        out.append(await separation.filter(chunk))
    await separation.stop()
    return out


@pytest.mark.parametrize("rate, channels", [(RATE, 1), (48000, 2)])
def test_it_gives_what_a_live_filter_gives(rate, channels):
    chunks = frames(4000, channels)
    out = asyncio.run(run(SeparationFilter(SEPARATOR, ["speech", "drums"], channels), chunks, rate))
    assert out == expected(chunks, ["speech", "drums"], rate, channels) and any(map(any, out))


def test_bytes_are_of_16_bits_whatever_the_config_says():
    chunks = frames(2000)
    out = asyncio.run(run(SeparationFilter(SEPARATOR, FilterConfig("speech", format="f32le")), chunks))
    assert out == expected(chunks, "speech")


def test_control_frames_change_what_is_kept():
    chunks, separation = frames(6000), SeparationFilter(SEPARATOR, FilterConfig("speech", drop="bass"))
    change = FilterUpdateSettingsFrame({"keep": "drums"})
    out = asyncio.run(run(separation, chunks, orders=[(10, [change])]))
    assert separation.live.filter.session.labels == ("drums", "bass")
    assert out[:10] == expected(chunks, "speech")[:10]
    assert out[15:] == pytest.approx(expected(chunks, "drums")[15:])


def test_it_is_turned_off_and_on():
    chunks, separation = frames(8000), SeparationFilter(SEPARATOR, "speech")
    out = b"".join(
        asyncio.run(run(separation, chunks, orders=[(10, [FilterEnableFrame(False)]), (30, [FilterEnableFrame(True)])]))
    )
    late = 2 * separation.live.filter.latency_samples
    dry = (bytes(late) + b"".join(chunks))[: len(out)]
    assert out[2 * SIZE * 11 : 2 * SIZE * 30] == dry[2 * SIZE * 11 : 2 * SIZE * 30]
    assert out[: 2 * SIZE * 10] != dry[: 2 * SIZE * 10] and out[2 * SIZE * 40 :] != dry[2 * SIZE * 40 :]


def test_what_cannot_be_set_changes_nothing():
    chunks, separation = frames(2000), SeparationFilter(SEPARATOR, "speech")

    async def wrong():
        await separation.start(RATE)
        with pytest.raises(InputError, match="no setting 'volume'; there are keep, drop"):
            await separation.process_frame(FilterUpdateSettingsFrame({"keep": "drums", "volume": 3}))
        with pytest.raises(PromptError, match="speach"):
            await separation.process_frame(FilterUpdateSettingsFrame({"keep": "speach"}))
        return [await separation.filter(chunk) for chunk in chunks]

    assert asyncio.run(wrong()) == expected(chunks, "speech")


def test_it_has_to_be_started():
    with pytest.raises(InputError, match="start"):
        asyncio.run(SeparationFilter(SEPARATOR, "speech").filter(bytes(320)))


def test_calls_follow_each_other():
    chunks, separation = frames(2000), SeparationFilter(SEPARATOR, "speech")
    assert asyncio.run(run(separation, chunks)) == asyncio.run(run(separation, chunks)) == expected(chunks, "speech")


def test_in_the_input_transport():
    """Pipecat's own task of audio, which asks the filter and pushes what it gives."""
    chunks, separation = frames(2000), SeparationFilter(SEPARATOR, "speech")
    heard = []

    class Transport(BaseInputTransport):
        async def push_frame(self, frame, *direction):
            heard.append(frame.audio)

        def create_task(self, coroutine, *name):
            return asyncio.create_task(coroutine)

        async def cancel_task(self, task, *timeout):
            task.cancel()

    async def call():
        params = TransportParams(audio_in_enabled=True, audio_in_filter=separation)
        transport = Transport(params)
        await separation.start(RATE)
        transport._create_audio_task()
        for chunk in chunks:
            await transport.push_audio_frame(InputAudioRawFrame(chunk, RATE, 1))
        while len(heard) < len(chunks):
            await asyncio.sleep(0.001)
        await transport._cancel_audio_task()

    asyncio.run(asyncio.wait_for(call(), 60))
    assert heard == expected(chunks, "speech")


def test_samples_of_the_tiny_model_are_heard():
    out = b"".join(expected(frames(4000), "speech"))
    assert np.abs(np.frombuffer(out, "<i2")).max() > 100
