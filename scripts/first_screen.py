"""The pictures and the table on the first screen of README.md, by one command: make first-screen

    python scripts/first_screen.py            # after another model became the default: peers.json first, see below

The picture is docs/images/demo.png: `ussfast separate --plot` of the bundled recording. The table comes from
bench/results/peers.json, which `bench/peers/compare.py` and then `bench/peers/memory.py` measure.
Once a detector is embedded, docs/images/detect.png and the lines beside it are what `ussfast detect --plot` says of the
same recording.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from marked import replaced

from ussfast.checkpoints.names import DETECTOR, embedded
from ussfast.errors import InputError

ROOT = Path(__file__).parents[1]
PEERS, PICTURE = Path("bench/results/peers.json"), Path("docs/images/demo.png")
DETECTED = Path("docs/images/detect.png")
RECORDING = Path("ussfast/demo/mixture.flac")
BEGIN, END = "<!-- beside denoisers: made by make first-screen -->", "<!-- end of the table -->"
BEGIN_DETECTED, END_DETECTED = "<!-- what is in it: made by make first-screen -->", "<!-- end of what is in it -->"
MOST_LINES = 8
TASKS = {
    "speech_enhancement": "speech + ambience",
    "cinematic": "speech + ambience + music",
    "speech_in_effects": "speech + one effect",
}
# In this order; others follow.
SYSTEMS = {"default": "ussfast, `default`", "DeepFilterNet3": "DeepFilterNet3", "RNNoise": "RNNoise"}
COLUMNS = (
    "SI-SDR improvement of the speech (dB):", *TASKS.values(), "real-time factor, one thread", "memory", "latency",
)  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Markdown: one line per system of peers.json, means over its mixtures."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    systems = found["systems"]
    for name in [*(name for name in SYSTEMS if name in systems), *(name for name in systems if name not in SYSTEMS)]:
        system = systems[name]
        own = [score for score in found["scores"] if score["system"] == name]
        gains = [[s["si_sdr_improvement"] for s in own if s["task"] == task] for task in TASKS]
        latency = "not live" if system["latency_ms"] is None else f"{system['latency_ms']:.0f} ms"
        factor = np.mean([score["cpu_per_second"] for score in own])
        memory = f"{system['memory_mib']:.0f} MiB" if "memory_mib" in system else "-"
        means = " | ".join(f"{np.mean(gain):+.1f}" if gain else "-" for gain in gains)
        lines.append(f"| {SYSTEMS.get(name, name)} | {means} | {factor:.3f} | {memory} | {latency} |")
    said = (
        f"{found['count']} mixtures of {found['seconds']:g} s in each column, of sounds that ours were not trained "
        f"on\n(of the others we do not know); {found['machine']}. The real-time factor is CPU time by duration, with "
        "float32.\nMemory is the peak of a process that reads and writes a minute of audio. Denoisers give speech,\n"
        "ours every sound of the mixture ([all figures](bench/results/peers.md))."
    )
    return "\n".join([*lines, "", said])


def readme(before: str, found: dict[str, Any]) -> str:
    """README.md with another table between BEGIN and END."""
    return replaced(before, BEGIN, END, table(found))


def detected(before: str, said: str) -> str:
    """README.md with the command, what it `said` and its picture between BEGIN_DETECTED and END_DETECTED."""
    lines = said.splitlines()
    if not lines:
        raise InputError(f"{RECORDING}: nothing is detected in it: there is nothing to show")
    more = ["    ..."] if len(lines) > MOST_LINES else []
    parts = (
        "`ussfast detect` says which sounds there are, and when: from and to in seconds, the score, and the label.\n"
        "The small detector in the package knows a few sounds of everyday; what it does not know, such as this wind,\n"
        "is at best the one that is nearest (its [card](ussfast/weights/detector/README.md) says what it knows).",
        "    ussfast detect talk.wav --plot what.png",
        "\n".join(["```", *lines[:MOST_LINES], *more, "```"]),
        f"![The events of the same recording as bars over time]({DETECTED})",
    )
    return replaced(before, BEGIN_DETECTED, END_DETECTED, "\n\n".join(parts))


def _ussfast(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "ussfast", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    path, written = ROOT / "README.md", [ROOT / PICTURE]
    text = readme(path.read_text(), json.loads((ROOT / PEERS).read_text()))
    with tempfile.TemporaryDirectory() as folder:
        _ussfast("separate", RECORDING, "-p", "speech,sfxbg", "-q", "-o", folder, "--plot", PICTURE)
    if DETECTOR in embedded():
        text = detected(text, _ussfast("detect", RECORDING, "-q", "--plot", DETECTED))
        written.append(ROOT / DETECTED)
    path.write_text(text)
    print(path, *written, sep="\n")


if __name__ == "__main__":
    main()
