"""How much windows change a result near their seams, by the context that is thrown away.

    python bench/seams.py AUDIO --model default --prompt speech --prompt sfxbg

Prints, for each context, the SNR of the windowed output against the output for the whole file, within 0.5 s of the
seams and elsewhere: medians over all seams, prompts and channels. AUDIO of 40 s or more gives enough seams.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ussfast.audio import read, resample
from ussfast.segments import FADE_SECONDS, SegmentPolicy
from ussfast.separator import Separator

NEAR_SECONDS = 0.5


def snr(reference: np.ndarray, other: np.ndarray) -> float:
    error = float(np.square(reference - other, dtype=np.float64).sum())
    return 10 * np.log10((float(np.square(reference, dtype=np.float64).sum()) + 1e-12) / (error + 1e-12))


def main(
    audio: Path,
    model: str = "default",
    preset: Annotated[bool, typer.Option(help="MODEL is a preset with random weights.")] = False,
    prompt: Annotated[list[str] | None, typer.Option()] = None,
    segment: float = 6.0,
    seconds: Annotated[float, typer.Option(help="Of the file to use.")] = 40.0,
) -> None:
    separator = (Separator.from_preset if preset else Separator)(model, prompt or ())
    data, rate = read(audio)
    data = resample(data[:1, : round(seconds * rate)], rate, separator.sample_rate)
    rate = separator.sample_rate
    separator.policy = SegmentPolicy(data.shape[1] / rate + 1, 0.0)
    whole = separator.separate(data).stems
    near = round(NEAR_SECONDS * rate)
    print(f"{model}, {data.shape[1] / rate:.0f} s of {audio}, windows of {segment:g} s")
    print("| context (s) | SNR near seams (dB) | SNR elsewhere (dB) | computed / kept |\n|---|---|---|---|")
    for context in (0.0, 0.5, 1.0, 2.0):
        separator.policy = SegmentPolicy(segment, 2 * context + FADE_SECONDS)
        stems = separator.separate(data).stems
        advance = segment - separator.policy.overlap
        # Seams lie in the middle of the cross-fades.
        seams = [round((k * advance + context + FADE_SECONDS / 2) * rate) for k in range(1, int(seconds / advance))]
        seams = [s for s in seams if near < s < data.shape[1] - near]
        close = [snr(w[s - near : s + near], o[s - near : s + near]) for s in seams for w, o in rows(whole, stems)]
        mask = np.ones(data.shape[1], bool)
        for s in seams:
            mask[s - near : s + near] = False
        away = [snr(w[mask], o[mask]) for w, o in rows(whole, stems)]
        print(f"| {context:g} | {np.median(close):.1f} | {np.median(away):.1f} | {segment / advance:.2f} |")


def rows(whole: np.ndarray, stems: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    length = whole.shape[-1]
    return list(zip(whole.reshape(-1, length), stems.reshape(-1, length), strict=True))


if __name__ == "__main__":
    typer.run(main)
