"""How well a live filter keeps one caller: SI-SDR improvement over what comes in, in dB.

    python bench/caller.py manifest.json -o bench/results/caller.json      # and caller.md

Calls made of the manifest's dev split: 16 kHz, 16 bits, chunks of 20 ms through `LiveFilter`. Of every caller 12 s of
other clips are enrolled. Beside the voice: ambience or music, as loud, another talker, 3 dB below, or music and a
talker, each 3 dB below. "speech" keeps every voice, "caller" the enrolled one.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ussfast.audio import read, resample
from ussfast.data.pool import Item, read_manifest
from ussfast.evaluate.metrics import si_sdr
from ussfast.integrations import LiveFilter
from ussfast.separator import Separator

RATE, CHUNK, SECONDS, ENROLLED_S, LEVEL = 16000, 320, 10, 12, 0.05
BESIDE = {
    "ambience": {"sfxbg": 0}, "music": {"musicbg": 0}, "another talker": {"speech": -3},
    "music and a talker": {"musicbg": -3, "speech": -3},
}  # fmt: skip
KEPT = ("speech", "caller")


def main(
    manifest: Path,
    count: Annotated[int, typer.Option(help="Of calls per kind.")] = 24,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="For the figures, as JSON.")] = None,
    model: str = "default",
) -> None:
    separator = Separator(model)
    items = [item for item in read_manifest(manifest) if item.split == "dev"]
    voices = sorted({item.speaker for item in items if item.prompt == "speech" and item.speaker})
    scores: dict[str, list[float]] = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        caller, other = rng.permutation(voices)[:2]
        own = rng.permutation(np.array([item for item in items if item.speaker == caller], object))
        half = max(1, len(own) // 3)  # none of the enrolled clips is heard in the call
        voice = joined(own[half:], SECONDS, rng)
        separator.enroll("caller", [joined(own[:half], ENROLLED_S, rng)], RATE)
        for kind, sounds in BESIDE.items():
            mixture = voice.copy()
            for prompt, level_db in sounds.items():
                mine = [item for item in items if item.prompt == prompt]
                mine = [item for item in mine if item.speaker == other] if prompt == "speech" else mine
                mixture += 10 ** (level_db / 20) * joined(rng.permutation(np.array(mine, object)), SECONDS, rng)
            before = si_sdr(mixture, voice)
            for keep in KEPT:
                score = si_sdr(through(separator, keep, mixture), voice) - before
                scores.setdefault(f"{kind}, {keep}", []).append(float(score))
    table = ["| beside the caller | " + " | ".join(f'keep "{keep}"' for keep in KEPT) + " |", "|---|---|---|"]
    for kind in BESIDE:
        cells = [f"{np.mean(scores[f'{kind}, {keep}']):+.1f}" for keep in KEPT]
        table.append(f"| {kind} | {' | '.join(cells)} |")
    print("\n".join(table))
    if output is not None:
        facts = {"model": model, "count": count, "callers": len(voices), "scores": scores}
        output.write_text(json.dumps(facts, indent=1) + "\n")
        output.with_suffix(".md").write_text("\n".join(table) + "\n")


def through(separator: Separator, keep: str, mixture: np.ndarray) -> np.ndarray:
    """[samples] as they come out of a filter, without its delay. Its clock stands still: nothing is ever late."""
    live = LiveFilter(separator, RATE, keep, clock=lambda: 0.0)
    data = np.rint(np.clip(mixture, -1, 1) * 32767).astype("<i2")
    heard = [live.process(data[at : at + CHUNK].tobytes()) for at in range(0, len(data), CHUNK)]
    whole = np.frombuffer(b"".join([*heard, live.flush()]), "<i2")
    return whole[live.latency_samples :] / np.float32(2**15)


def joined(clips: "np.ndarray | list[Item]", seconds: int, rng: np.random.Generator) -> np.ndarray:
    """[samples] of these clips, one after the other, from somewhere within them, LEVEL loud."""
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < (seconds + 1) * RATE:
        item = clips[len(parts) % len(clips)]
        audio, own = read(item.path)
        part = resample(audio[0], own, RATE)
        longest = 2 * seconds * RATE
        at = int(rng.integers(max(1, len(part) - longest)))
        parts.append(part[at : at + longest])
    whole = np.concatenate(parts)
    at = int(rng.integers(len(whole) - seconds * RATE))
    cut = whole[at : at + seconds * RATE]
    return (LEVEL * cut / max(1e-4, float(np.sqrt(np.mean(cut**2))))).astype(np.float32)


if __name__ == "__main__":
    typer.run(main)
