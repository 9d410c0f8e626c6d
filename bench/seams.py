"""How much windows change a result near their seams, by the context that is thrown away.

    python bench/seams.py AUDIO --model default --prompt speech --prompt sfxbg

Prints, for each context, the SNR of the windowed output against the output for the whole file, within 0.5 s of the
seams and elsewhere: energies summed over all seams, then the mean over stems in dB. The file is begun at several
offsets, so that the seams of every context fall on the same kind of material.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ussfast.audio import read, resample
from ussfast.long_audio.policy import FADE_SECONDS, SegmentPolicy
from ussfast.separator import Separator

NEAR_SECONDS = 0.5
OFFSETS = 4


def snr(energy: np.ndarray, error: np.ndarray) -> float:
    """Mean over stems, in dB."""
    return float(np.mean(10 * np.log10(energy / error)))


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
    near = round(NEAR_SECONDS * rate)
    print(f"{model}, {data.shape[1] / rate:.0f} s of {audio}, windows of {segment:g} s")
    print("| context (s) | SNR near seams (dB) | SNR elsewhere (dB) | computed / kept |\n|---|---|---|---|")
    starts = [round(k * segment / OFFSETS * rate) for k in range(OFFSETS)]
    separator.policy = SegmentPolicy(data.shape[1] / rate + 1, 0.0)
    wholes = [separator.separate(data[:, start:], rate).stems[:, 0] for start in starts]
    for context in (0.0, 0.5, 1.0, 2.0):
        separator.policy = SegmentPolicy(segment, 2 * context + FADE_SECONDS)
        advance = segment - separator.policy.overlap
        sums = np.zeros((2, 2, len(wholes[0])))  # [near or elsewhere, energy or error, stem]
        for start, whole in zip(starts, wholes, strict=True):
            error = separator.separate(data[:, start:], rate).stems[:, 0] - whole
            close = np.zeros(whole.shape[1], bool)
            # Seams lie in the middle of the cross-fades.
            for seam in np.arange(advance + context + FADE_SECONDS / 2, whole.shape[1] / rate - context, advance):
                close[max(0, round(seam * rate) - near) : round(seam * rate) + near] = True
            for row, mask in enumerate((close, ~close)):
                sums[row, 0] += np.square(whole[:, mask], dtype=np.float64).sum(1)
                sums[row, 1] += np.square(error[:, mask], dtype=np.float64).sum(1)
        print(f"| {context:g} | {snr(*sums[0]):.1f} | {snr(*sums[1]):.1f} | {segment / advance:.2f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
