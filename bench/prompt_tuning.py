"""Tuned prompts against enrolled ones, on sounds that no training has seen.

    python bench/prompt_tuning.py MANIFEST [-m MODEL] [--detector DIR] [--shots 5] [-n 40] [-o FILE.json]

Clips are of the manifest's split `tune`, mixtures of its split `dev`, as in query_prompts.py: a clip of the label and
one of another label at the same level. Enrolled is the better of mean and robust mean on these mixtures; tuning
begins with the mean, against the backgrounds of the package. Prints the median SDR in dB per label, and the time.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from query_prompts import AVERAGES, case, ratio, unseen

from ussfast import PromptWarning, Separator
from ussfast.data.pool import read_manifest


def median(separator: Separator, mixtures: list[tuple[np.ndarray, np.ndarray]]) -> float:
    found = []
    for target, other in mixtures:
        out = separator.separate(target + other, separator.sample_rate, prompts="query").stems[0, 0]
        found.append(ratio(target, target - out))
    return float(np.median(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-m", "--model", default="default")
    parser.add_argument("--detector")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("-n", "--count", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore", PromptWarning)
    separator = Separator(given.model, detector=given.detector, device="cpu")
    by, labels = unseen(read_manifest(given.manifest))
    rows: dict[str, dict[str, float | str]] = {}
    print("| label | enrolled | tuned | kept | seconds |\n|---|---|---|---|---|")
    for label in labels:
        rng = np.random.default_rng(0)
        clips, mixtures = case(by, label, given.shots, given.count, separator.sample_rate, rng)
        shots = [item.path for item in clips]
        enrolled = []
        for average in AVERAGES:
            separator.enroll("query", shots, average=average)
            enrolled.append(median(separator, mixtures))
        begun = time.monotonic()
        kind = separator.tune("query", shots).kind
        seconds = time.monotonic() - begun
        row = {"enrolled": max(enrolled), "tuned": median(separator, mixtures), "kind": kind, "seconds": seconds}
        rows[label] = row
        print(f"| {label} | {row['enrolled']:.1f} | {row['tuned']:.1f} | {kind} | {seconds:.0f} |", flush=True)
    gains = [float(r["tuned"]) - float(r["enrolled"]) for r in rows.values()]
    better = sum(gain > 0 for gain in gains)
    print(f"\nmean gain {np.mean(gains):.2f} dB, better in {better} of {len(gains)}")
    if given.output is not None:
        given.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
