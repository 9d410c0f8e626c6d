"""Streams that are interrupted in all ways there are, and go on: no sample is missing or wrong."""

import json
import signal
import threading
import time

import numpy as np
import pytest
import websockets
from stream_cuts import SIZE, Relay, free_port, heard, paced, wait_until
from stream_servers import Apart, Here, alone, get, parsed, same, separator
from tiny import noise
from websockets.sync.client import connect

from ussfast.errors import InputError, UssfastError
from ussfast.prompts.bank import Prompt
from ussfast.serve.client import StreamClient

RATE = 8000


@pytest.fixture(scope="module")
def server(tmp_path_factory, directory):
    server = Here(tmp_path_factory.mktemp("data"), directory, max_ahead_s=1000, snapshot_s=0.05)
    yield server
    server.stop()


@pytest.mark.parametrize(("rate", "channels", "format"), [(RATE, 1, "f32le"), (44100, 2, "s16le")])
def test_a_dropped_connection_costs_nothing(server, directory, rate, channels, format):
    relay = Relay(server.port)
    audio = np.round(noise(channels, 2 * rate) * 2**15) / np.float32(2**15)
    size = rate // 50
    changes = [(30 * size, ("drums", "speech")), (61 * size, ("sfx", "speech")), (75 * size, ("sfx", "bass"))]
    client = StreamClient(relay.url, rate, channels=channels, prompts=("speech", "sfx"), format=format)

    def cut_at(position):
        def act():
            wait_until(lambda: client.received > position - rate // 4)  # it is connected, and goes on
            relay.cut()

        return position, act

    cuts = dict(cut_at(number * size) for number in (20, 62, 63, 90))
    got = heard(client, paced(client, audio, cuts, changes, size))
    session = separator(directory).session(rate, prompts=("speech", "sfx"), channels=channels)
    same(got, alone(session, audio, changes), 1e-4 if format == "f32le" else 1 / 2**15)
    assert client.reconnects >= 3
    relay.close()


def test_a_connection_that_went_dead_costs_nothing(server, directory, monkeypatch):
    monkeypatch.setattr("ussfast.serve.client.PING_S", 0.3)
    relay, audio = Relay(server.port), noise(1, 2 * RATE)
    client = StreamClient(relay.url, RATE, prompts="speech")

    def die():
        relay.dead |= {near for near, _ in relay.pairs}

    got = heard(client, paced(client, audio, {50 * SIZE: die}))
    same(got, alone(separator(directory).session(RATE, prompts="speech", channels=1), audio))
    assert client.reconnects == 1
    relay.close()


def together(url, directory, audio, act, changes):
    """Two streams while something is done; changes are of the first one's prompts, which does it."""
    names, got, clients = (("speech", "drums"), ("sfx",)), {}, {}

    failed = []

    def one(number):
        try:
            hear(number)
        except BaseException as error:
            failed.append(error)

    def hear(number):
        client = clients[number] = StreamClient(url, RATE, prompts=names[number])
        chunks = paced(client, audio, *(({50 * SIZE: act}, changes) if number == 0 else ({},)), pace_s=0.01)
        got[number] = heard(client, chunks)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed
    for number in range(2):
        session = separator(directory).session(RATE, prompts=names[number], channels=1)
        same(got[number], alone(session, audio, changes if number == 0 else ()))
        assert clients[number].reconnects >= 1


def test_a_killed_server_costs_nothing(tmp_path, directory):
    """Prompts changed just before it happens, and change while it is away."""
    server = Apart(tmp_path, directory, free_port(), max_ahead_s=1000, snapshot_s=0.1)
    changes = [(48 * SIZE, ("bass", "speech")), (60 * SIZE, ("bass", "sfx"))]

    def kill():
        server.end()
        server.start()

    try:
        server.wait()
        together(server.url, directory, noise(1, 2 * RATE), kill, changes)
    finally:
        server.end(signal.SIGTERM)
    assert server.process.returncode in (0, -signal.SIGTERM)


def test_a_server_that_ends_in_order_costs_nothing(tmp_path, directory):
    settings = {"max_ahead_s": 1000, "port": free_port()}
    servers = [Here(tmp_path, directory, **settings)]

    def drain():
        servers[0].stop()
        servers.append(Here(tmp_path, directory, **settings))

    together(servers[0].url, directory, noise(1, 2 * RATE), drain, [(49 * SIZE, ("drums", "bass"))])
    servers[1].stop()


def begun(server, query="sample_rate=8000&prompts=speech", path="/v1/streams"):
    return connect(f"ws://127.0.0.1:{server.port}{path}?{query}", compression=None, proxy=None, max_size=None)


def until(socket, kind):
    """Pieces before the next message of a kind, and that."""
    pieces = []
    while True:
        message = socket.recv(10)
        if isinstance(message, bytes):
            pieces.append(parsed(message))
        elif json.loads(message)["type"] == kind:
            return pieces, json.loads(message)


def test_what_there_is_of_a_stream(server, directory):
    """Snapshots and acknowledgements, a second connection, and what cannot be gone on with."""
    audio = noise(1, RATE)
    with begun(server) as first:
        stream = json.loads(first.recv())["stream"]
        path = f"/v1/streams/{stream}"
        first.send(audio[:, :4000].tobytes())
        heard = separator(directory).session(RATE, prompts="speech", channels=1).push(audio[:, :4000]).stems.shape[2]
        taken = 0
        while taken < heard:
            message = first.recv(10)
            taken += parsed(message)[3].shape[2] if isinstance(message, bytes) else 0
        assert taken == heard < 4000
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused, begun(server, "received=0", path):
            pass
        assert refused.value.response.status_code == 409 and "Retry-After" in refused.value.response.headers
        first.send(json.dumps({"type": "ack", "received": heard}))
        first.send(json.dumps({"type": "ping", "id": 1}))
        until(first, "pong")
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        again(server, "received=0", path)
    assert refused.value.response.status_code == 409 and b"oldest snapshot" in refused.value.response.body
    second = again(server, f"received={heard}", path)
    resumed = json.loads(second.recv())
    assert (resumed["type"], resumed["next_input"], resumed["next_output"]) == ("resumed", 4000, heard)
    second.send(audio[:, 4000:].tobytes())
    second.send('{"type":"end"}')
    pieces, ended = until(second, "ended")
    assert ended == {"type": "ended", "input": RATE, "output": RATE} and pieces[0][0] == heard
    second.close()
    for wrong, status in ((path, 404), ("/v1/streams/nothing", 404), (f"/v1/streams/{'0' * 32}", 404)):
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            again(server, "received=0", wrong)
        assert refused.value.response.status_code == status


def again(server, query, path):
    """Once the connection before is put down."""
    limit = time.monotonic() + 10
    while True:
        try:
            return begun(server, query, path).__enter__()
        except websockets.exceptions.InvalidStatus as refused:
            if "Retry-After" not in refused.response.headers or time.monotonic() > limit:
                raise
            time.sleep(0.05)


def test_a_newer_connection_takes_over_where_the_old_one_is_silent(server, monkeypatch):
    monkeypatch.setattr("ussfast.serve.streams.connection.ALIVE_S", 0.0)
    with begun(server) as first:
        stream = json.loads(first.recv())["stream"]
        with begun(server, "received=0", f"/v1/streams/{stream}") as second:
            assert json.loads(second.recv())["next_input"] == 0
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                first.recv(10)
            assert first.close_code == 1001


def test_enrolled_prompts_are_swapped_and_survive(server, directory):
    """Another vector while the stream runs, a connection that is cut, and a prompt that is gone by then."""
    bank, audio = server.server.separator.prompts, noise(1, 2 * RATE)
    bank.add(Prompt("mine", bank["drums"].vector.clone(), "enrolled"))
    relay = Relay(server.port)
    client = StreamClient(relay.url, RATE, prompts=("speech", "mine"))
    swapped = Prompt("mine", bank["bass"].vector.clone(), "enrolled")
    at = []

    def swap():
        wait_until(lambda: client.received > 28 * SIZE)
        bank.add(swapped)
        server.uvicorn.servers[0].get_loop().call_soon_threadsafe(server.streams.swap, swapped)

    def lose():
        wait_until(lambda: at)
        bank._prompts.pop("mine")
        relay.cut()

    hear = client._hear
    client._hear = lambda message: at.append(message) if message["type"] == "swapped" else hear(message)
    got = heard(client, paced(client, audio, {30 * SIZE: swap, 60 * SIZE: lose}))
    assert client.reconnects == 1 and at == [{"type": "swapped", "prompt": "mine"}]
    # Exactly where it was swapped is the server's affair: before it is the one, behind it the other.
    sessions = (separator(directory).session(RATE, prompts=("speech", name), channels=1) for name in ("drums", "bass"))
    before, after = (alone(session, audio) for session in sessions)
    same({"speech": got["speech"]}, {"speech": before["speech"]})
    early, late = slice(0, 27 * SIZE), slice(62 * SIZE, None)
    np.testing.assert_allclose(got["mine"][:, early], before["drums"][:, early], atol=1e-4)
    np.testing.assert_allclose(got["mine"][:, late], after["bass"][:, late], atol=1e-4)
    relay.close()


def test_streams_that_nobody_goes_on_with_are_removed(tmp_path, directory):
    server = Here(tmp_path, directory, resume_s=0.01)
    try:
        with begun(server) as first:
            stream = json.loads(first.recv())["stream"]
            assert (tmp_path / "streams" / stream / "stream.json").exists()
        with begun(server, "sample_rate=8000&prompts=speech&resumable=false") as second:
            other = json.loads(second.recv())["stream"]
            assert not (tmp_path / "streams" / other).exists()
        limit = time.monotonic() + 10
        while server.streams.load.streams:
            assert time.monotonic() < limit
        server.streams.keeper.sweep(0.0)
        assert not list((tmp_path / "streams").iterdir())
    finally:
        server.stop()


def test_what_is_on_disk_may_be_anything(server):
    with begun(server) as first:
        stream = json.loads(first.recv())["stream"]
        # A snapshot is taken behind audio once it is due, and a fast machine is done with this before that.
        time.sleep(2 * server.settings.snapshot_s)
        first.send(noise(1, 4000).tobytes())
        _, saved = until(first, "saved")
    folder = server.settings.data / "streams" / stream
    path = f"/v1/streams/{stream}"
    again(server, "received=0", path).close()
    kept = {file: file.read_bytes() for file in folder.glob("*.safetensors")}
    for file in kept:
        file.write_bytes(b"nothing of that")
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        again(server, f"received={saved['output']}", path)
    assert refused.value.response.status_code == 409 and b"cannot be gone on with" in refused.value.response.body
    (folder / "stream.json").write_text('{"asked": [')
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        again(server, "received=0", path)
    assert refused.value.response.status_code == 404
    assert get(f"{server.url}/v1/streams?sample_rate=8000&prompts=speech")[0] == 200


def test_a_client_says_why_it_cannot_go_on(server):
    relay = Relay(server.port)
    client = StreamClient(relay.url, RATE, prompts="speech", resumable=False)
    with pytest.raises(UssfastError, match="connection was lost"):
        heard(client, paced(client, noise(1, RATE), {20 * SIZE: relay.cut}))
    relay = Relay(server.port)
    client = StreamClient(relay.url, RATE, prompts="speech", patience_s=0.2)
    with pytest.raises(UssfastError, match="away for longer than 0.2 s"):
        heard(client, paced(client, noise(1, RATE), {20 * SIZE: relay.close}))
    client = StreamClient(server.url, RATE, prompts="speech")
    with pytest.raises(InputError, match="1 channels, the chunk 2"):
        heard(client, [noise(2, 100)])
    with pytest.raises(InputError, match="one stream"):
        heard(client, [noise(1, 100)])
    client = StreamClient(server.url, RATE, prompts="speech")
    with pytest.raises(ZeroDivisionError):
        heard(client, (noise(1, 100 // (3 - n)) for n in range(4)))
    with pytest.raises(InputError, match="http://HOST:PORT"):
        StreamClient("nowhere", RATE)
