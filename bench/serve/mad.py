"""Malformed messages by the thousand: whether a server of live streams forgets them.

    python bench/serve/mad.py --messages 100000

Prints JSON: memory of the server after a tenth of them and in the end, and whether it still takes streams.
"""

import argparse
import asyncio
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from load import TAKES_ALL, Server
from sockets import Socket, connect, frame

AT_ONCE = 8
TEXTS = ('{"type":', '"ack"', '"prompts"', '"end"', ',"received":', ',"prompts":', "1e999", "[", "}", "\x00", "null")
QUERY = "/v1/streams?sample_rate=48000&prompts=speech"


def message(rng: random.Random) -> bytes:
    """A frame: text that is no message, bytes that are no audio, or no frame at all."""
    kind = rng.randrange(4)
    if kind == 0:
        return frame(1, "".join(rng.choice(TEXTS) for _ in range(rng.randrange(9))).encode())
    if kind == 1:
        return frame(1, rng.randbytes(rng.randrange(200)))
    if kind == 2:
        return frame(2, rng.randbytes(4 * rng.randrange(300) + rng.randrange(1, 4)))
    return rng.randbytes(rng.randrange(1, 200))


async def mad(server: Server, count: int, seed: int) -> int:
    """Sends so many, each connection until the server has had enough of it; returns how many there were."""
    rng, sent, connections = random.Random(seed), 0, 0
    while sent < count:
        path = QUERY + rng.choice(("", "&resumable=false", "&resumable=false", "&x=1", "&channels=0"))
        socket: Socket = await connect(server.host, server.port, path)
        connections += 1
        if socket.open.result() != 101 or socket.transport is None:
            sent += 1
            continue
        for _ in range(rng.randrange(1, 40)):
            socket.transport.write(message(rng))
            sent += 1
        try:
            await asyncio.wait_for(socket.closed, 0.2)
        except TimeoutError:  # in the middle of a frame that never ends
            socket.transport.abort()
    return connections


async def work(server: Server, messages: int) -> dict[str, Any]:
    sizes, connections = [], 0
    for tenth in range(10):
        each = messages // 10 // AT_ONCE
        found = await asyncio.gather(*(mad(server, each, AT_ONCE * tenth + k) for k in range(AT_ONCE)))
        connections += sum(found)
        await asyncio.sleep(1)
        sizes.append(server.rss())
    socket = await connect(server.host, server.port, QUERY)
    return {
        "messages": messages, "connections": connections, "rss_mb": [round(size / 1e6, 1) for size in sizes],
        "grown": round(sizes[-1] / sizes[0] - 1, 4), "still": socket.open.result() == 101,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--port", type=int, default=8498)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "data", asked.port, Path(folder) / "log", TAKES_ALL, resume_s=5)
        try:
            server.wait()
            print(json.dumps(uvloop.run(work(server, asked.messages))))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
