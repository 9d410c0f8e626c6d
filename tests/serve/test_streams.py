"""Live streams of a server: what comes out is what a session gives."""

import asyncio
import json
import threading
import time

import numpy as np
import pytest
import websockets
from stream_servers import Here, alone, by_label, get, parsed, run, same, separator
from tiny import TUSS, noise, tiny_directory

from ussfast.errors import InputError, UssfastError
from ussfast.prompts.bank import Prompt
from ussfast.serve.client import StreamClient

RATE = 8000


@pytest.fixture(scope="module")
def server(tmp_path_factory, directory):
    server = Here(tmp_path_factory.mktemp("data"), directory, max_ahead_s=1000, idle_s=30)
    yield server
    server.stop()


def cut(audio, size):
    return [audio[:, at : at + size] for at in range(0, audio.shape[1], size)]


def heard(client, chunks):
    pieces = list(client.stream(chunks))
    firsts = [piece.first for piece in pieces]
    assert firsts == sorted(firsts)
    return by_label([(piece.labels, piece.stems) for piece in pieces])


@pytest.mark.parametrize(
    ("rate", "channels", "chunk", "format"),
    [(RATE, 1, 160, "f32le"), (48000, 1, 961, "f32le"), (44100, 2, 882, "f32le"), (48000, 2, 20000, "s16le")],
)
def test_a_stream_is_what_a_session_gives(server, directory, rate, channels, chunk, format):
    audio = noise(channels, rate + 17)
    if format == "s16le":
        audio = np.round(audio * 2**15) / np.float32(2**15)
    client = StreamClient(server.url, rate, channels=channels, prompts=("speech", "drums"), format=format)
    got = heard(client, cut(audio, chunk))
    session = separator(directory).session(rate, prompts=("speech", "drums"), channels=channels)
    same(got, alone(session, audio), 1e-4 if format == "f32le" else 1 / 2**15)
    assert client.reconnects == 0 and client.received == audio.shape[1]


def test_streams_of_different_rates_at_once(server, directory):
    rates, got = (RATE, 16000, 44100, 48000, RATE, 48000), {}

    def one(number, rate):
        audio = noise(1, rate, number)
        got[number] = heard(StreamClient(server.url, rate, prompts="bass"), cut(audio, 320 + number))

    threads = [threading.Thread(target=one, args=item) for item in enumerate(rates)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, rate in enumerate(rates):
        session = separator(directory).session(rate, prompts="bass", channels=1)
        same(got[number], alone(session, noise(1, rate, number)))


def test_prompts_change_where_they_stand_among_the_chunks(server, directory):
    audio = noise(1, 2 * RATE)
    client = StreamClient(server.url, RATE, prompts=("speech", "sfx"))
    changes = [(4001, ("speech", "drums")), (4001, ("drums",)), (9000, ("sfx", "sfx", "speech"))]

    def chunks():
        at = 0
        for position, prompts in changes:
            yield audio[:, at:position]
            at = position
            client.set_prompts(prompts)
        yield audio[:, at:]

    got = heard(client, chunks())
    same(got, alone(separator(directory).session(RATE, prompts=("speech", "sfx"), channels=1), audio, changes))
    assert {"sfx-1", "sfx-2", "drums"} <= got.keys()


def test_what_is_asked_before_the_stream_is_refused_before_the_upgrade(server):
    wrong = {
        "sample_rate=8000": "no prompts", "sample_rate=8000&prompts=speach": "did you mean speech",
        "prompts=speech": "sample_rate is missing", "sample_rate=7&prompts=speech": "from 8000 to 192000",
        "sample_rate=8000&prompts=speech&channels=99": "from 1 to 8", "sample_rate=8e3&prompts=speech": "whole number",
        "sample_rate=8000&prompts=speech&format=mp3": "f32le, s16le", "sample_rate=8000&rate=1": "'rate' is not known",
        "sample_rate=8000&sample_rate=8000": "given twice",
        "sample_rate=8000&channels=2&prompts=sfx,sfx": "one channel",
        "sample_rate=8000&prompts=speech,sfx,drums,bass,other": "4 at most",
    }  # fmt: skip
    for query, reason in wrong.items():
        status, headers, text = get(f"{server.url}/v1/streams?{query}")
        assert (status, headers["content-type"]) == (400, "application/problem+json"), query
        assert reason in json.loads(text)["detail"], text
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            run(opened(server, query))
        assert refused.value.response.status_code == 400
        assert json.loads(refused.value.response.body) == json.loads(text)
    assert get(f"{server.url}/v1/streams?sample_rate=8000&prompts=speech")[0] == 200
    status, _, text = get(f"{server.url}/v1/streams?sample_rate=48000&prompts=speech,sfx,sfx")
    facts = json.loads(text)
    assert facts["labels"] == ["speech", "sfx-1", "sfx-2"] and facts["latency_samples"] > 0 and facts["room"] > 0
    with pytest.raises(InputError, match="did you mean speech"):
        list(StreamClient(server.url, RATE, prompts="speach").stream([]))
    with pytest.raises(UssfastError, match="no stream at"):
        list(StreamClient("http://127.0.0.1:9", RATE, prompts="speech").stream([]))


async def opened(server, query="sample_rate=8000&prompts=speech", path="/v1/streams", **settings):
    settings = {"compression": None, "proxy": None, "max_size": None} | settings
    return await websockets.connect(f"ws://127.0.0.1:{server.port}{path}?{query}", **settings)


async def everything(socket):
    """Messages to the end, pieces as bytes, and the code of the close."""
    found = []
    try:
        async for message in socket:
            found.append(message if isinstance(message, bytes) else json.loads(message))
    except websockets.exceptions.ConnectionClosed:
        pass
    return found, socket.close_code


def test_messages_are_as_the_protocol_says(server):
    async def work():
        socket = await opened(server, subprotocols=["ussfast.v1", "bearer.eA"])
        assert socket.subprotocol == "ussfast.v1"
        started = json.loads(await socket.recv())
        await socket.send(json.dumps({"type": "ping", "id": "x"}))
        await socket.send(json.dumps({"type": "prompts", "prompts": ["nothing"]}))
        await socket.send(noise(1, 4000).tobytes())
        await socket.send([noise(1, 100).tobytes(), noise(1, 100).tobytes()])  # in parts
        await socket.send(json.dumps({"type": "prompts", "prompts": ["sfx", "speech"]}))
        await socket.send(b"")
        await socket.send(json.dumps({"type": "end"}))
        return started, *(await everything(socket))

    started, messages, code = run(work())
    assert started["type"] == "started" and len(started["stream"]) == 32
    assert started["labels"] == ["speech"] and started["deadline_ms"] == 60 and started["resume_s"] == 600
    texts = [message for message in messages if isinstance(message, dict)]
    assert texts[0] == {"type": "pong", "id": "x"}
    assert texts[1]["type"] == "error" and "'nothing'" in texts[1]["detail"]
    assert {"type": "prompts", "at": 4200, "labels": ["sfx", "speech"]} in texts
    assert texts[-1] == {"type": "ended", "input": 4200, "output": 4200} and code == 1000
    pieces = [parsed(message) for message in messages if isinstance(message, bytes)]
    assert [p[0] for p in pieces] == list(np.cumsum([0, *(p[3].shape[2] for p in pieces[:-1])]))
    assert sum(p[3].shape[2] for p in pieces) == 4200 and {p[1] for p in pieces} >= {0, 1}
    assert started["latency_samples"] == round(started["latency_s"] * RATE)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("nonsense", 1007), ("[1]", 1007), ('{"type":"stop"}', 1007), ('{"type":"end","now":1}', 1007), (b"abc", 1007),
        ('{"type":"ack","received":-1}', 1007), ('{"type":"ack","received":5}', 1007), ("[" * 5000, 1007),
        ('{"type":"prompts","prompts":"speech"}', 1007), (bytes(4 * 2 * RATE + 4), 1009),
        ('{"type":"ping","id":NaN}', 1007),
    ],
)  # fmt: skip
def test_garbage_ends_a_stream(server, message, code):
    async def work():
        socket = await opened(server)
        await socket.recv()
        await socket.send(message)
        return await everything(socket)

    messages, closed = run(work())
    assert closed == code
    if code == 1007:
        assert messages[-1]["type"] == "error" and messages[-1]["code"] == "garbage"
    wait_for_none(server)


def wait_for_none(server):
    until = time.monotonic() + 20
    while server.streams.load.streams:
        assert time.monotonic() < until, "a stream is left"
        time.sleep(0.02)


def test_threads_share_streams_out_and_all_swap_prompts(server):
    bank = server.server.separator.prompts
    bank.add(Prompt("ours", bank["bass"].vector.clone(), "enrolled"))
    hubs = server.streams.hubs._all
    swap = server.uvicorn.servers[0].get_loop().call_soon_threadsafe

    async def work():
        sockets = [await opened(server, "sample_rate=8000&prompts=ours") for _ in range(4)]
        counts = [[len(hub._places.lives) for hub in hubs]]
        for socket in sockets:
            await socket.recv()
        swap(server.streams.swap, Prompt("ours", bank["drums"].vector.clone(), "enrolled"))
        told = [json.loads(await socket.recv()) for socket in sockets]
        for socket in sockets[::2]:  # both of one thread
            await socket.close()
        until = time.monotonic() + 20
        while server.streams.load.streams > 2:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        counts.append([len(hub._places.lives) for hub in hubs])
        sockets += [await opened(server) for _ in range(2)]
        counts.append([len(hub._places.lives) for hub in hubs])
        for socket in sockets:
            await socket.close()
        return counts, told

    counts, told = run(work())
    assert counts[0] == counts[2] == [2, 2] and sorted(counts[1]) == [0, 2]
    assert told == [{"type": "swapped", "prompt": "ours"}] * 4
    wait_for_none(server)


def test_other_servers_of_asgi_take_streams_too(tmp_path, directory):
    server = Here(tmp_path, directory, "websockets-sansio", max_ahead_s=1000)
    try:
        audio = noise(1, RATE)
        got = heard(StreamClient(server.url, RATE, prompts="speech"), cut(audio, 160))
        same(got, alone(separator(directory).session(RATE, prompts="speech", channels=1), audio))
        wait_for_none(server)
    finally:
        server.stop()


def test_models_that_see_windows_have_no_streams(tmp_path):
    server = Here(tmp_path / "data", str(tiny_directory(tmp_path, TUSS)))
    try:
        status, _, text = get(f"{server.url}/v1/streams?sample_rate=8000&prompts=speech")
        assert status == 501 and "causal" in text
        assert not json.loads(get(f"{server.url}/v1/model")[2])["can_stream"]
    finally:
        server.stop()


def test_an_idle_stream_ends(tmp_path, directory):
    server = Here(tmp_path, directory, idle_s=0.1)

    async def work():
        return await everything(await opened(server))

    try:
        messages, code = asyncio.run(work())
        assert code == 4000 and messages[-1]["code"] == "idle"
    finally:
        server.stop()
