"""How many live streams a server holds: so many at once, in real time with jitter, and what came late.

    python bench/serve/load.py -n 67 --seconds 60                    # server and client on this machine
    python bench/serve/load.py --rate 32000                          # the default's own rate, as bench_pool has it
    python bench/serve/load.py --light -n 67                         # a small model: what the server itself costs

Prints JSON: late pieces as the server counts them and as the client sees them, CPU time of both per second of audio.
"""

import argparse
import asyncio
import collections
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from sockets import Paced, connect, said

CHUNK_S = 0.02
WARM_S = 3.0
DEADLINE_S = 0.06
TICKS = os.sysconf("SC_CLK_TCK")
SERVER = """
from ussfast.serve.running import run
from ussfast.serve.settings import ServeSettings
run(ServeSettings())
"""
# Takes streams without asking whether there is time for them.
TAKES_ALL = "from ussfast.serve.streams.admission import Load; Load.reason = lambda *_: None" + SERVER


def given_by_chunks(model: str, rate: int, chunks: int) -> np.ndarray:
    """Output frames that there are after 0, 1, 2, ... chunks."""
    import ussfast

    separator = ussfast.Separator(model, device="cpu")
    session = separator.session(rate, prompts=tuple(separator.prompts)[:1], channels=1)
    return np.array([session._stages.given(round(CHUNK_S * rate) * count) for count in range(chunks)])


def light_model(folder: Path) -> str:
    """The default's rate, hop and bands with next to nothing behind them."""
    from dataclasses import replace

    import ussfast
    from ussfast.checkpoints.store import save_model
    from ussfast.models import build

    config = ussfast.Separator("default", device="cpu").engine.model.config
    small = replace(config, dim=16, hidden=16, blocks=1, heads=1)
    save_model(folder / "light", build(small), name="light", license="CC0-1.0", source={"made": "at random"})
    return str(folder / "light")


class Server:
    """A server process on a folder of its own. settings: of ServeSettings."""

    def __init__(self, data: Path, port: int, log: Path | None = None, program: str = SERVER, **settings: Any):
        self.host, self.port = "127.0.0.1", port
        usual = {"data": data, "port": port, "device": "cpu", "rate_per_minute": 10**6, "log_level": "warning"}
        variables = {f"USSFAST_SERVE_{name.upper()}": str(value) for name, value in (usual | settings).items()}
        out = None if log is None else log.open("w")
        command = [sys.executable, "-c", program]
        self.process = subprocess.Popen(command, env=os.environ | variables, stdout=out, stderr=out)

    def wait(self) -> None:
        while True:
            try:
                if self.get("/ready")[0] == 200:
                    return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("the server ended") from None
            time.sleep(0.2)

    def get(self, path: str) -> tuple[int, str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.host}:{self.port}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def threads(self) -> dict[int, float]:
        found = {}
        for path in Path(f"/proc/{self.process.pid}/task").iterdir():
            fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            found[int(path.name)] = (int(fields[11]) + int(fields[12])) / TICKS
        return found

    def rss(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Stolen(threading.Thread):
    """CPU time that the machine under this one gave to others, by seconds of the loop's clock."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds: dict[int, float] = {}
        self.start()

    def run(self) -> None:
        before = self._so_far()
        while True:
            at = int(time.monotonic())
            time.sleep(1 - time.monotonic() % 1)
            now = self._so_far()
            self.seconds[at], before = now - before, now

    @staticmethod
    def _so_far() -> float:
        return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / TICKS


async def load(server: Server, asked: argparse.Namespace, given: np.ndarray) -> dict[str, Any]:
    """asked.streams streams for asked.seconds after they have warmed up."""
    loop, rng = asyncio.get_running_loop(), random.Random(0)
    chunk = round(CHUNK_S * asked.rate)
    noise = (0.1 * np.random.default_rng(0).standard_normal(chunk)).astype("<f4").tobytes()
    path = f"/v1/streams?sample_rate={asked.rate}&prompts={asked.prompts}&resumable={'false' if asked.lost else 'true'}"
    streams = []
    for _ in range(asked.streams):
        socket = await connect(server.host, server.port, path)
        if socket.open.result() != 101:
            raise SystemExit(f"stream {len(streams) + 1} was refused: {socket.head.decode()}")
        streams.append(Paced(socket, noise, given, DEADLINE_S))
    period, begun, facts = CHUNK_S, loop.time() + 0.2, {}
    phases = [rng.random() * period for _ in streams]
    refused, lag, number, end = [], 0.0, 0, begun + WARM_S + asked.seconds
    measured, stolen = False, Stolen()
    while begun + number * period < end:
        if not measured and begun + number * period > begun + WARM_S:
            measured = True
            facts = {"server": server.cpu(), "client": cpu(), "at": loop.time(), "threads": server.threads()}
            for stream in streams:
                stream.late = stream.server_late = stream.pieces = 0
                stream.worst = 0.0
                stream.late_in.clear()
            for _ in range(asked.more):
                refused.append((await connect(server.host, server.port, path)).open.result())
        base = begun + number * period
        turns = sorted((base + phase + rng.random() * asked.jitter / 1000, k) for k, phase in enumerate(phases))
        number += 1
        for due, k in turns:
            now = loop.time()
            if due > now:
                await asyncio.sleep(due - now)
            else:
                lag = max(lag, now - due) if measured else 0.0
                await asyncio.sleep(0)
            if streams[k].socket.closed.done():
                raise SystemExit(f"stream {k} was closed: {streams[k].socket.closed.result()}")
            streams[k].send(due)
    seconds = loop.time() - facts["at"]
    audio = seconds * len(streams)
    threads = {tid: t - facts["threads"].get(tid, 0.0) for tid, t in server.threads().items()}
    late_in = sum((stream.late_in for stream in streams), collections.Counter[int]())
    taken = {second: share for second, share in stolen.seconds.items() if second >= facts["at"]}
    result = {
        "streams": len(streams), "seconds": round(seconds, 1), "pieces": sum(s.pieces for s in streams),
        "late_server": sum(s.server_late for s in streams), "late_client": sum(s.late for s in streams),
        "worst_ms": round(1000 * max(s.worst for s in streams), 1), "client_lag_ms": round(1000 * lag, 1),
        "gaps": sum(s.gaps for s in streams), "refused": refused,
        "server_cpu_per_stream_s": round((server.cpu() - facts["server"]) / audio, 5),
        "client_cpu_per_stream_s": round((cpu() - facts["client"]) / audio, 5),
        "threads_cpu_per_stream_s": [round(t / audio, 5) for t in sorted(threads.values(), reverse=True)[:4]],
        "load_average": os.getloadavg()[0], "stolen_cpu_s": round(sum(taken.values()), 2),
        "late_in_seconds": len(late_in),
        "stolen_cpu_s_then": round(sum(taken.get(second, 0.0) for second in late_in), 2),
    }  # fmt: skip
    for stream in streams:
        stream.socket.transport.write(said(type="end"))
    await asyncio.wait([stream.socket.closed for stream in streams], timeout=30)
    result["short"] = sum(stream.frames != chunk * len(stream.due) for stream in streams)
    return result


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--streams", type=int, default=8)
    parser.add_argument("--rate", type=int, default=48000, help="Hz")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--jitter", type=float, default=10, help="ms, uniform")
    parser.add_argument("--more", type=int, default=0, help="streams to be refused beside them")
    parser.add_argument("--prompts", default="speech,sfxbg")
    parser.add_argument("--model", default="default")
    parser.add_argument("--light", action="store_true", help="a small model instead")
    parser.add_argument("--lost", action="store_true", help="streams that cannot be gone on with: no snapshots")
    parser.add_argument("--headroom", type=float, default=0.85)
    parser.add_argument("--threads", type=int, default=1, help="of the server, that compute streams")
    parser.add_argument("--all", action="store_true", help="takes streams without asking whether there is time")
    parser.add_argument("--port", type=int, default=8499)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--wait", action="store_true", help="prints the server's process number, for a profiler")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = light_model(Path(folder)) if asked.light else asked.model
        given = given_by_chunks(model, asked.rate, int((asked.seconds + WARM_S + 10) / CHUNK_S))
        limits = {"max_streams": asked.streams} if asked.more else {"headroom": asked.headroom}
        limits["threads"] = asked.threads
        program = TAKES_ALL if asked.all else SERVER
        server = Server(Path(folder) / "data", asked.port, asked.log, program, model=model, **limits)
        try:
            server.wait()
            if asked.wait:
                print(server.process.pid, file=sys.stderr, flush=True)
            print(json.dumps(uvloop.run(load(server, asked, given))))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
