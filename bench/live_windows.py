"""What a latency costs: a model that is not causal in live windows, against the whole file at once.

    python bench/live_windows.py --model models/tuss-medium

Prints, for each latency, how `live_policy` cuts, the SNR of the windowed output against the output for the whole file
(within the cross-fades and elsewhere: mean over stems), the SI-SDR against the references, of everything and of the
second half, where windows have grown, and the seconds of windows computed per second of audio once they have.
By default the audio is the bundled example; another one is a folder with mixture.flac and a file for each prompt.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ussfast import demo
from ussfast.audio import read, resample
from ussfast.evaluate.metrics import si_sdr
from ussfast.long_audio.policy import SegmentPolicy, live_policy
from ussfast.long_audio.windows import FadeStitcher
from ussfast.separator import Separator

LATENCIES = (0.25, 0.5, 1.0, 2.0, 4.0)
HEAD = (
    "| latency (s) | step (s) | fade (s) | look-ahead (s) | SNR in fades (dB) | SNR elsewhere (dB) | SI-SDR (dB) | "
    "of the second half (dB) | computed / audio |\n|---|---|---|---|---|---|---|---|---|"
)


def snr(whole: np.ndarray, error: np.ndarray) -> float:
    """Mean over stems [stems, samples], in dB."""
    return float(np.mean(10 * np.log10(np.square(whole).sum(1) / np.square(error).sum(1))))


def quality(stems: np.ndarray, references: np.ndarray) -> str:
    """Mean SI-SDR over stems: of everything and of the second half."""
    half = stems.shape[1] // 2
    parts = (slice(None), slice(half, None))
    return " | ".join(
        f"{np.mean([si_sdr(s[part], r[part]) for s, r in zip(stems, references, strict=True)]):.1f}" for part in parts
    )


def main(
    model: Annotated[str, typer.Option("--model", "-m", help="One that is not causal.")],
    folder: Annotated[Path, typer.Argument(help="mixture.flac and a reference for each prompt.")] = demo.HERE,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p")] = None,
    segment: Annotated[float | None, typer.Option(help="The window in seconds.")] = None,
) -> None:
    prompts = tuple(prompt or demo.PROMPTS)
    separator = Separator(model, prompts)
    rate, trained = separator.sample_rate, separator.info.config.segment_seconds

    def load(name: str) -> np.ndarray:
        audio, own = read(folder / f"{name}.flac")
        return resample(audio[:1], own, rate)

    mixture, references = load("mixture"), np.concatenate([load(name) for name in prompts])
    seconds = mixture.shape[1] / rate
    print(f"{model}, {', '.join(prompts)}, {seconds:.0f} s of {folder.name}\n{HEAD}")
    separator.policy = SegmentPolicy(seconds + 1, 0.0)
    whole = separator.separate(mixture, rate).stems[:, 0].astype(np.float64)
    for latency in LATENCIES:
        separator.policy = policy = live_policy(trained, latency, segment)
        stems = separator.separate(mixture, rate).stems[:, 0]
        error, cut = stems - whole, FadeStitcher(separator.engine.run, rate, policy)
        fading = np.arange(mixture.shape[1]) % cut.advance < cut.fade
        fading[: cut.advance] = False  # nothing is before the first window
        print(
            f"| {latency:g} | {cut.advance / rate:g} | {cut.fade / rate:.3g} | {cut.ahead / rate:.3g} | "
            f"{snr(whole[:, fading], error[:, fading]):.1f} | {snr(whole[:, ~fading], error[:, ~fading]):.1f} | "
            f"{quality(stems, references)} | {cut.size / cut.advance:.1f} |",
            flush=True,
        )
    print(f"| whole file | | | | | | {quality(whole, references)} | 1 |")
    print(f"| mixture | | | | | | {quality(np.repeat(mixture, len(references), 0), references)} | |")


if __name__ == "__main__":
    typer.run(main)
