"""Peak memory of `ussfast separate`, or of `ussfast detect`, by duration of the file.

    python bench/memory.py 3 60 --model default --prompt speech --prompt sfxbg
    python bench/memory.py 3 60 --model models/cnn14-dlmax --detect

Makes noise of each duration (stereo, 44.1 kHz, 16 bit) and separates it, or detects in it, in a process of its own.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer

RATE, CHANNELS = 44100, 2


def noise(path: Path, minutes: float) -> None:
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, CHANNELS, "PCM_16") as file:
        for _ in range(round(minutes * 60)):
            file.write(rng.normal(0, 0.1, (RATE, CHANNELS)).astype(np.float32))


def main(
    minutes: list[float],
    model: str = "default",
    prompt: Annotated[list[str] | None, typer.Option()] = None,
    detect: Annotated[bool, typer.Option("--detect", help="MODEL is a detector.")] = False,
    folder: Annotated[Path | None, typer.Option(help="For the files; needs room for them and their stems.")] = None,
) -> None:
    print("| minutes | peak RSS (MiB) | against the first |\n|---|---|---|")
    first = None
    for duration in sorted(minutes):
        with tempfile.TemporaryDirectory(dir=folder) as directory:
            source = Path(directory) / "noise.wav"
            noise(source, duration)
            prompts = [word for name in prompt or () for word in ("--prompt", name)]
            verb = "detect" if detect else "separate"
            command = [sys.executable, "-m", "ussfast", verb, str(source), "-q", "--model", model, *prompts]
            subprocess.run([*command, "-o", str(Path(directory) / "out")], check=True)
        # The largest of all children so far; durations ascend, so a larger one can only be this one's.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        first = first or peak
        print(f"| {duration:g} | {peak:.0f} | {peak / first:.3f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
