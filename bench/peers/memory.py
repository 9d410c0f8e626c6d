"""Peak memory of each system of peers.json while it takes a minute of noise out of speech, in a process of its own.

    python bench/peers/memory.py bench/results/peers.json

Writes `memory_mib` into the file. Denoisers get a file's samples in NumPy; ours is `ussfast separate` with two prompts.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer
from denoisers import PEERS

from ussfast.audio import atomic_write

SECONDS, RATE = 60, 48000
DENOISE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
import soundfile
from denoisers import PEERS
peer = PEERS[sys.argv[1]]()
audio, rate = soundfile.read(sys.argv[2], dtype="float32")
assert rate == peer.rate
with peer.opened() as denoise:
    soundfile.write(sys.argv[3], denoise(audio), rate)
"""


def peak_mib(command: list[str]) -> float:
    """Of the process and those that it waits for."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(int(done.stdout) / unit, 1)


def main(path: Annotated[Path, typer.Argument(help="peers.json, as compare.py writes it.")]) -> None:
    found = json.loads(path.read_text())
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/noise.wav", f"{folder}/out.wav"
        noise = 0.1 * np.random.default_rng(0).standard_normal(SECONDS * RATE)
        soundfile.write(source, noise, RATE, "FLOAT")
        names = {make().name: key for key, make in PEERS.items()}
        for name, system in found["systems"].items():
            if name in names:
                command = [sys.executable, "-c", DENOISE, names[name], source, target]
            else:
                ours = ["-m", "ussfast", "separate", source, "-m", name, "-p", "speech,sfxbg", "-q", "-o", folder]
                command = [sys.executable, *ours]
            system["memory_mib"] = peak_mib(command)
            print(f"{name}: {system['memory_mib']:.0f} MiB")
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
