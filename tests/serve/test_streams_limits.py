"""Live streams of a server that is full, and clients that are slow, gone or mad."""

import base64
import json
import os
import random
import socket
import threading
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
import websockets
from stream_servers import Here, alone, get, parsed, same, separator
from tiny import noise
from websockets.sync.client import connect

from ussfast.errors import InputError
from ussfast.serve.client import StreamClient
from ussfast.serve.streams.admission import Load
from ussfast.serve.streams.protocol import message_of, query_of
from ussfast.streaming.pool import SessionPool

RATE = 8000


@pytest.fixture(scope="module")
def server(tmp_path_factory, directory):
    folder = tmp_path_factory.mktemp("data")
    server = Here(folder, directory, max_ahead_s=1000, max_unsent_s=0.5, max_streams=3)
    yield server
    server.stop()


def begun(server, more="", **settings):
    url = f"ws://127.0.0.1:{server.port}/v1/streams?sample_rate=8000&prompts=speech{more}"
    return connect(url, compression=None, proxy=None, max_size=None, **settings)


def wait_until(done):
    limit = time.monotonic() + 30
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.01)


def full(server):
    """How a stream is refused, both ways."""
    status, headers, text = get(f"{server.url}/v1/streams?sample_rate=8000&prompts=speech")
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused, begun(server):
        pass
    response = refused.value.response
    assert (status, text) == (response.status_code, response.body.decode())
    assert int(headers["retry-after"]) == int(response.headers["Retry-After"]) > 0
    return status, json.loads(text)["detail"]


def test_one_too_many_is_refused_and_harms_nobody(server, directory):
    audio, got = noise(1, RATE), {}

    def one(number):
        def chunks():
            for at in range(0, RATE, 160):
                if at == 4000:
                    wait_until(lambda: server.streams.load.streams == 3)
                    assert full(server) == (503, "all 3 live streams that this server takes are running")
                yield audio[:, at : at + 160]

        pieces = StreamClient(server.url, RATE, prompts="speech").stream(chunks())
        got[number] = np.concatenate([piece.stems for piece in pieces], -1)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    want = alone(separator(directory).session(RATE, prompts="speech", channels=1), audio)
    for number in range(3):
        same({"speech": got[number][0]}, want)
    wait_until(lambda: not server.streams.load.streams)
    assert get(f"{server.url}/v1/streams?sample_rate=8000&prompts=speech")[0] == 200


def test_time_limits_streams(server):
    load = server.streams.load
    before = load.cost, load.headroom
    try:
        load.cost, load.headroom = 0.3, 0.85
        with begun(server), begun(server, "&resumable=false"):
            status, detail = full(server)
            assert status == 503 and "90% of the time" in detail
            facts = get(f"{server.url}/v1/streams?sample_rate=8000&prompts=speech&channels=2")
            assert facts[0] == 503
    finally:
        load.cost, load.headroom = before
    wait_until(lambda: not load.streams)


def test_what_streams_cost_is_what_turns_took():
    load = Load(None, 0.8)
    assert load.reason(1) is None and load.room(1) > 1000
    load.note(0.3, 3.0, 6, 1.0)
    load._since -= 3  # a window is over
    load.note(0.3, 3.0, 6, 0.0)
    assert load.cost == pytest.approx(0.1) and load.busy == pytest.approx(0.1, abs=0.01)
    assert load.room(1) == 7 and load.room(2) == 3
    for _ in range(7):
        load.take(1)
    assert load.room(1) == 1 and load.reason(1) is None and load.reason(2) is not None
    load.take(1)
    assert load.room(1) == 0 and "90% of the time" in load.reason(1)
    load.release(1)
    assert load.reason(1) is None


def test_threads_hold_as_many_streams_each():
    load = Load(None, 0.8, threads=2)
    load.tried(0.1)
    assert load.cost == pytest.approx(0.05) and load.room(1) == 16
    load.note(1.2, 12.0, 6, 1.0)
    load._since -= 2
    load.note(1.2, 12.0, 6, 1.0)
    assert load.cost == pytest.approx(0.05) and load.busy == pytest.approx(0.6, abs=0.01) and load.room(1) == 4


def test_no_new_streams_while_the_server_ends(server):
    server.server.draining = True
    try:
        assert full(server) == (503, "the server is about to end; try again in a moment")
    finally:
        server.server.draining = False


def test_a_client_that_does_not_read_is_left_alone(server):
    """What waits for it stays bounded; it is told, and its place is free."""
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(("127.0.0.1", server.port))
    with begun(server, ",sfx,drums,bass", sock=small, max_queue=1) as slow:
        stream = json.loads(slow.recv())["stream"]
        connection = next(iter(server.streams._connections.values()))
        audio, codes = np.zeros(RATE // 2, "<f4").tobytes(), []
        connection._wire.close, close = lambda code: (codes.append(code), close(code)), connection._wire.close
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            for _ in range(200):  # what comes of them is more than the sockets of the system take
                slow.send(audio)
            wait_until(lambda: codes)
            while True:
                slow.recv(10)
        assert codes == [1013] and connection._unsent_s < 1.1
    wait_until(lambda: not server.streams.load.streams)
    assert (server.settings.data / "streams" / stream).exists(), "it can be gone on with"


def test_a_client_that_is_ahead_waits(tmp_path, directory):
    """Time of the machine that nobody else needs is not enough reason to hear more than it may be ahead."""
    server = Here(tmp_path, directory, max_ahead_s=0.2)
    try:
        begun_at = time.monotonic()
        audio = noise(1, 2 * RATE)
        client = StreamClient(server.url, RATE, prompts="speech")
        list(client.stream(audio[:, at : at + 160] for at in range(0, 2 * RATE, 160)))
        assert time.monotonic() - begun_at > 1.5
    finally:
        server.stop()


def test_garbage_of_all_kinds_leaves_nothing(server):
    """Random bytes, text, frames and requests; then all is as before."""
    rng = random.Random(0)
    process, sizes = psutil.Process(os.getpid()), []
    for turn in range(60):
        for _ in range(3):
            with begun(server, "&resumable=false") as mad:
                mad.recv()
                try:
                    for _ in range(rng.randrange(1, 4)):
                        size = rng.choice((0, 1, 3, 4, 17, 400, 4000))
                        data = rng.randbytes(size)
                        mad.send(data if rng.random() < 0.5 else data.decode("latin-1"))
                    while True:
                        mad.recv(0.05)
                except (websockets.exceptions.ConnectionClosed, TimeoutError):
                    pass
            wait_until(lambda: not server.streams.load.streams)
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            start = rng.choice((b"", b"GET /v1/streams HTTP/1.1\r\n", b"\r\n\r\n"))
            raw.sendall(start + rng.randbytes(rng.randrange(200)))
        if turn > 20:
            sizes.append(process.memory_info().rss)
    assert max(sizes) < 1.05 * sizes[0]  # this process is that of the clients, too
    wait_until(lambda: not server.streams.load.streams)
    assert server.streams.hubs.alive and get(f"{server.url}/ready")[0] == 200
    assert list(StreamClient(server.url, RATE, prompts="speech").stream([noise(1, 500)]))


def test_frames_in_any_pieces(server):
    """What a socket brings does not end where frames do, and messages may be in parts."""
    audio, rng = noise(1, 3000), random.Random(1)
    with begun(server) as one:
        one.recv()
        one.send(audio.tobytes())
        one.send('{"type":"end"}')
        want = np.concatenate([parsed(m)[3] for m in one if isinstance(m, bytes)], -1)
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        key = base64.b64encode(rng.randbytes(16)).decode()
        raw.sendall(
            f"GET /v1/streams?sample_rate=8000&prompts=speech HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        data = b""
        while b"\r\n\r\n" not in data:
            data += raw.recv(4096)
        frames = b""
        for at in range(0, 3000, 100):
            payload = audio[:, at : at + 100].tobytes()
            if at % 300 == 0:  # in three parts with a ping between them
                parts = [(0x02, payload[:7]), (0x89, b"?"), (0x00, payload[7:200]), (0x80, payload[200:])]
            else:
                parts = [(0x82, payload)]
            for first, part in parts:
                frames += masked(first, part, rng.randbytes(4))
        frames += masked(0x81, b'{"type":"end"}', rng.randbytes(4))
        while frames:
            count = rng.randrange(1, 700)
            raw.sendall(frames[:count])
            frames = frames[count:]
            time.sleep(0.001)
        rest = data.partition(b"\r\n\r\n")[2]
        while chunk := raw.recv(1 << 16):
            rest += chunk
            if b"ended" in rest:
                break
    got, at = [], 0
    while at + 2 <= len(rest):
        size, start = rest[at + 1], at + 2
        if size == 126:
            size, start = int.from_bytes(rest[at + 2 : at + 4], "big"), at + 4
        if rest[at] == 0x82:
            got.append(parsed(rest[start : start + size])[3])
        at = start + size
    np.testing.assert_allclose(np.concatenate(got, -1), want, atol=1e-6)


def masked(first, data, mask):
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([first]) + size + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


def test_messages_and_queries_are_never_another_error():
    rng = random.Random(2)
    parts = ['{"type":', '"ack"', '"prompts"', '"end"', '"ping"', ',"received":', ',"prompts":', ',"id":']
    parts += ["1", "[", "]", "}", "x", "\ud800"]
    for _ in range(20000):
        text = "".join(rng.choice(parts) for _ in range(rng.randrange(8)))
        with suppress(InputError):
            message_of(text)
        with suppress(InputError):
            query_of("".join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(20))))


def test_streams_go_on_where_one_fails(server, monkeypatch):
    """A bug in a pool's computation ends its streams with 1011; the server, and the next streams, live on."""
    with begun(server) as first:
        first.recv()
        with monkeypatch.context() as patch:
            patch.setattr(SessionPool, "push", lambda *_: 1 / 0)
            first.send(bytes(400))
            assert json.loads(first.recv(10))["code"] == "failed"
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                first.recv(10)
            assert first.close_code == 1011
    wait_until(lambda: not server.streams.load.streams)
    assert list(StreamClient(server.url, RATE, prompts="speech").stream([noise(1, 500)]))
