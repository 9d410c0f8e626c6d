"""Prompts from clips of sounds that no training has seen: separation, and the mean of clips against the robust mean.

    python bench/query_prompts.py MANIFEST [-m MODEL] [--detector DIR] [--shots 5] [-n 6] [-o FILE.json]

Clips are of the manifest's split `tune`, mixtures of its split `dev`: a clip of the label and one of another label, at
the same level. Medians over mixtures of SDR in dB: of the mixture, of the clip alone (clean) and, of the other clip
alone, how far it is lowered (silence), as in Chen et al., "Zero-shot audio source separation through query-based
learning from weakly-labeled data", AAAI 2022. With "one wrong", one of the clips is of another label.
"""

import argparse
import json
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from ussfast import PromptWarning, Separator
from ussfast.audio import load, resample
from ussfast.data.pool import Item, read_manifest
from ussfast.prompts.averages import agreement
from ussfast.prompts.origin import Agreement

SECONDS, LEVEL = 4.0, 0.1
AVERAGES = ("mean", "robust")


def clip(item: Item, rate: int, rng: np.random.Generator) -> np.ndarray:
    """[samples] at an RMS of LEVEL, short ones repeated."""
    audio, own = load(item.path, None, rate)
    if own != rate:
        audio = resample(audio, own, rate)
    mono, count = audio.mean(0), round(SECONDS * rate)
    mono = np.tile(mono, -(-count // len(mono)))
    start = int(rng.integers(len(mono) - count + 1))
    cut = mono[start : start + count]
    return cut * (LEVEL / np.sqrt(np.square(cut).mean() + 1e-12))


def loud(item: Item) -> bool:
    return bool(np.square(load(item.path, None, 32_000)[0]).mean() > 1e-7)


def ratio(signal: np.ndarray, error: np.ndarray) -> float:
    return 10 * float(np.log10((np.square(signal).sum() + 1e-8) / (np.square(error).sum() + 1e-8)))


def scores(separator: Separator, mixtures: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """[mixtures, 3]: mixture, clean, silence."""
    rows = []
    for target, other in mixtures:
        inputs = (target + other, target, other)
        found = [separator.separate(x, separator.sample_rate, prompts="query").stems[0, 0] for x in inputs]
        mixed, alone, rest = found
        rows.append((ratio(target, target - mixed), ratio(target, target - alone), ratio(other, rest)))
    return np.array(rows)


Sounds = dict[tuple[str, str], list[Item]]  # by split and label


def unseen(items: list[Item]) -> tuple[Sounds, list[str]]:
    """Effects that no training has seen, and the labels that have clips to show and others to mix."""
    by: Sounds = defaultdict(list)
    for item in items:
        if item.prompt == "sfx" and item.split in ("tune", "dev") and loud(item):
            by[item.split, item.label].append(item)
    return by, sorted(label for split, label in by if split == "tune" and ("dev", label) in by)


def case(
    by: Sounds, label: str, shots: int, count: int, rate: int, rng: np.random.Generator
) -> tuple[list[Item], list[tuple[np.ndarray, np.ndarray]]]:
    """Clips that show a label, and mixtures as (what is asked for, what is beside it)."""
    own, others = by["dev", label], [i for (s, o), v in by.items() if s == "dev" and o != label for i in v]
    mixtures = [
        (clip(own[n % len(own)], rate, rng), clip(others[rng.integers(len(others))], rate, rng)) for n in range(count)
    ]
    return [by["tune", label][i] for i in rng.permutation(len(by["tune", label]))[:shots]], mixtures


def measure(separator: Separator, items: list[Item], shots: int, count: int) -> dict[str, dict[str, list[float]]]:
    """Per condition and label."""
    by, labels = unseen(items)
    trained = {item.label for item in items if item.split == "train"}
    found: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for label in labels:
        rng = np.random.default_rng(0)
        of_label, mixtures = case(by, label, shots, count, separator.sample_rate, rng)
        wrong = [i for (s, o), v in by.items() if s == "tune" and o != label for i in v]
        sets = {"": of_label, ", one wrong": [wrong[rng.integers(len(wrong))], *of_label[1:]]}
        for name, chosen in sets.items():
            for average in AVERAGES:
                separator.enroll("query", [i.path for i in chosen], average=average)
                key = f"{average}{name}, {'seen' if label in trained else 'new'} labels"
                found[key][label] = np.median(scores(separator, mixtures), 0).tolist()
    return found


def cosines(separator: Separator, items: list[Item]) -> None:
    """Prints 10%, 50% and 90% of the mean cosines of five clips, of one label and of five, and how often the one wrong
    clip of five is named."""
    by, _ = unseen(items)
    vectors: dict[str, list[torch.Tensor]] = defaultdict(list)
    for (_, label), own in by.items():
        vectors[label] += [separator.prompt_of("query", [item.path]).vector.cpu() for item in own]
    labels, rng = [label for label, own in vectors.items() if len(own) >= 5], np.random.default_rng(0)
    detector = not hasattr(separator.engine.model, "embed")

    def any_of(label: str, number: int) -> list[torch.Tensor]:
        return [vectors[label][i] for i in rng.permutation(len(vectors[label]))[:number]]

    def agreed(five: list[torch.Tensor]) -> Agreement:
        found = agreement(torch.stack(five), "abcde", detector)
        assert found is not None
        return found

    one, several, named = [], [], []
    for label in labels * 3:
        own, other = any_of(label, 5), any_of(str(rng.choice([o for o in labels if o != label])), 1)
        one.append(agreed(own).cosine)
        named.append(agreed([*other, *own[1:]]).clip == "a")
        mixed = [any_of(str(o), 1)[0] for o in rng.choice(labels, 5, replace=False)]
        several.append(agreed(mixed).cosine)
    for name, values in (("one label", one), ("five labels", several)):
        print(f"mean cosine, {name}:", *np.quantile(values, (0.1, 0.5, 0.9)).round(2))
    print(f"the wrong clip is named in {100 * np.mean(named):.0f}%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-m", "--model", default="default")
    parser.add_argument("--detector")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("-n", "--count", type=int, default=6)
    parser.add_argument("--cosines", action="store_true", help="how alike clips are, instead")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore", PromptWarning)
    separator = Separator(given.model, detector=given.detector, device="cpu")
    if given.cosines:
        cosines(separator, read_manifest(given.manifest))
        return
    found = measure(separator, read_manifest(given.manifest), given.shots, given.count)
    print("| | mixture | clean | silence |\n|---|---|---|---|")
    for key, rows in sorted(found.items()):
        print(f"| {key} ({len(rows)}) | " + " | ".join(f"{v:.1f}" for v in np.mean(list(rows.values()), 0)) + " |")
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
