"""An hour of audio through one session: memory minute by minute, sample counts, and a consumer that comes late.

    python bench/stream_hour.py -o bench/results/stream-hour.json
    python bench/stream_hour.py --minutes 5

Time is simulated where waiting would be: chunks arrive at their time, the session needs as long as it really needs, and
the consumer fetches each piece up to 200 ms late. A dropout is a piece that is not there when it is to be played, which
is its place in the stream plus the player's buffer.
"""

import argparse
import json
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import ussfast
from ussfast.profiling.profile import machine

CHUNK_SECONDS = 0.01
LATE_SECONDS = 0.2


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=int, default=48000)
    parser.add_argument("-m", "--model", default="default")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    session = ussfast.Separator(options.model, ("speech", "sfxbg")).session(options.rate, channels=1)
    rng = np.random.default_rng(0)
    chunk = round(CHUNK_SECONDS * options.rate)
    per_minute = round(60 / CHUNK_SECONDS)
    # The player's buffer: latency, one chunk, a hop of time to compute in, and the lateness of the consumer.
    buffered = session.latency + CHUNK_SECONDS + session.hop_seconds + LATE_SECONDS
    taken = given = dropouts = 0
    free_at = busy = 0.0  # when the session is done with what it was given; seconds that it computed
    worst = 0.0
    memory: list[float] = []
    stalls: list[tuple[float, int]] = []
    for minute in range(options.minutes):
        swell = 0.1 * (1 + np.sin(np.arange(per_minute) / 100))
        for number in range(per_minute):
            audio = (swell[number] * rng.standard_normal((1, chunk), np.float32)).astype(np.float32)
            taken += chunk
            arrived = taken / options.rate
            begun = time.perf_counter()
            piece = session.push(audio)
            took = time.perf_counter() - begun
            busy += took
            if took > 0.1:  # the machine was elsewhere
                stalls.append((round(arrived, 2), round(1000 * took)))
            free_at = max(free_at, arrived) + took
            count = piece.mixture.shape[1]
            if count:
                fetched = free_at + rng.uniform(0, LATE_SECONDS)
                worst = max(worst, fetched - given / options.rate)
                dropouts += fetched - given / options.rate > buffered
                given += count
        memory.append(resident_mib())
        print(f"minute {minute + 1}: {memory[-1]} MiB, {busy / (60 * (minute + 1)):.3f} of real time", flush=True)
    given += session.flush().mixture.shape[1]
    facts = {
        "model": options.model,
        "machine": machine(),
        "minutes": options.minutes,
        "rate": options.rate,
        "rtf": round(busy / (60 * options.minutes), 4),
        "samples_in": taken,
        "samples_out": given,
        "dropouts": int(dropouts),
        "latest_ms": round(1000 * worst, 2),
        "buffer_ms": round(1000 * buffered, 2),
        "stalls_at_s_of_ms": stalls,
        "memory_mib": memory,
        "memory_change_after_first_minute_mib": round(max(abs(m - memory[0]) for m in memory), 2),
    }
    print(json.dumps({key: value for key, value in facts.items() if key != "memory_mib"}, indent=1))
    if options.output:
        options.output.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
