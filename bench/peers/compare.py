"""The embedded model beside denoisers: speech out of the development mixtures of a manifest.

    pip install 'ussfast[peers]'
    python bench/peers/compare.py data/manifest.json -o bench/results/peers.json
    python bench/peers/compare.py data/manifest.json -o bench/results/peers.json -m default --update    # peers stay
    ... --update --same-speed    # other weights of the same network, on another machine: CPU time and memory stay, too

Tasks: speech_enhancement (speech + background effects), cinematic (speech + background effects + music), both as
`ussfast evaluate` makes them, and speech_in_effects (speech + one effect, -3..7 dB). Ours is asked for the prompts of
the mixture, not live; peers get the mixture at their own rate, and their delay, measured once, is taken out. Prints a
Markdown table; -o writes it beside the JSON.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soxr
import torch
import typer
from denoisers import PEERS, Denoiser, MissingPackage

import ussfast
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.errors import InputError
from ussfast.evaluate.dev import DevMixture, Draw, amplitude, dev_mixtures
from ussfast.evaluate.metrics import si_sdr
from ussfast.profiling.profile import machine
from ussfast.separator import Separator

TASKS = ("speech_enhancement", "cinematic", "speech_in_effects")
SECONDS, SEED, LONGEST_DELAY = 5.0, 0, 0.1
COLUMNS = (
    "task", "system", "mixtures", "SI-SDR of the mixture (dB)", "SI-SDRi, mean (dB)", "SI-SDRi, median (dB)",
    "CPU time (ms per s)", "latency (ms)",
)  # fmt: skip
LEGEND = (
    "SI-SDRi is the improvement of the speech over the mixture. CPU time is that of one thread, "
    "without conversion of the sample rate and loading. Latency is the algorithm's: its delay and one frame. Denoisers "
    "are asked for speech, ours for every source of the mixture. Each mixture starts from a fresh state."
)


@dataclass(frozen=True)
class Score:
    """Speech of one mixture; dB, and seconds of CPU time per second of audio."""

    task: str
    mixture: int
    system: str
    si_sdr_before: float
    si_sdr_improvement: float
    cpu_per_second: float


def delay_of(peer: Denoiser, speech: np.ndarray, rate: int) -> int:
    """Samples, at the peer's rate, by which it is late: where its output for clean speech resembles the speech most."""
    audio = soxr.resample(speech, rate, peer.rate).astype(np.float32)
    with peer.opened() as denoise:
        out = denoise(audio)
    size = 2 * len(audio)
    likeness = np.fft.irfft(np.fft.rfft(out, size) * np.conj(np.fft.rfft(audio, size)), size)
    return int(likeness[: round(LONGEST_DELAY * peer.rate)].argmax())


def denoised(peer: Denoiser, delay: int, mixture: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    """The mixture without noise and without delay, and the CPU time in seconds."""
    audio = soxr.resample(mixture, rate, peer.rate).astype(np.float32)
    audio = np.concatenate([audio, np.zeros(delay, np.float32)])
    with peer.opened() as denoise:
        start = time.process_time()
        out = denoise(audio)
        spent = time.process_time() - start
    out = soxr.resample(out[delay:], peer.rate, rate)
    return np.pad(out, (0, max(0, len(mixture) - len(out))))[: len(mixture)], spent


def separated(separator: Separator, item: DevMixture) -> tuple[np.ndarray, float]:
    """Our speech, and the CPU time in seconds."""
    start = time.process_time()
    found = separator.separate(item.mixture, separator.sample_rate, prompts=item.prompts)
    return found.stems[item.prompts.index("speech"), 0], time.process_time() - start


def speech_in_effects(pool: AudioPool, count: int) -> Iterator[DevMixture]:
    """Speech + one effect, the speech -3..7 dB above it; leveled and drawn like the other tasks, with a seed of its
    own. The first k do not depend on `count`."""
    draw = Draw(pool, round(SECONDS * pool.rate))
    for number in range(count):
        draw.rng = np.random.default_rng((SEED, 100, number))
        (speech, first), (effect, second) = draw.pick("speech"), draw.pick("sfx")
        sources = np.stack([speech, effect * amplitude(-draw.rng.uniform(-3, 7))])
        sources = (sources * min(1.0, 0.95 / max(1e-9, float(np.abs(sources.sum(0)).max())))).astype(np.float32)
        yield DevMixture("speech_in_effects", sources.sum(0), sources, ("speech", "sfx"), (first, second))


def mixtures(pool: AudioPool, count: int) -> Iterator[tuple[int, DevMixture]]:
    """`count` per task of TASKS, each with its number within the task."""
    made = [item for item in dev_mixtures(pool, count, SECONDS, SEED) if item.task in TASKS]
    made += speech_in_effects(pool, count)
    yield from ((i % count, item) for i, item in enumerate(made))


def compare(separators: list[Separator], peers: list[Denoiser], pool: AudioPool, count: int) -> dict[str, Any]:
    """Everything, as JSON holds it: `systems` and `scores`."""
    rate, items = pool.rate, list(mixtures(pool, count))
    systems: dict[str, dict[str, Any]] = {}
    for separator in separators:
        causal = separator.engine.causal is not None
        latency = 1000 * separator.engine.model.config.latency_samples / rate if causal else None
        systems[separator.info.name] = {"version": ussfast.__version__, "latency_ms": latency}
        separated(separator, items[0][1])  # weights are packed on the first call
    delays = {peer.name: delay_of(peer, items[0][1].references[0], rate) for peer in peers}
    for peer in peers:
        systems[peer.name] = {
            "version": peer.version, "delay_samples": delays[peer.name], "sample_rate": peer.rate,
            "latency_ms": 1000 * (delays[peer.name] + peer.hop) / peer.rate,
        }  # fmt: skip
    scores = []
    for number, item in items:
        speech = item.references[item.prompts.index("speech")]
        before, seconds = si_sdr(item.mixture, speech), len(speech) / rate
        found = {separator.info.name: separated(separator, item) for separator in separators}
        found |= {peer.name: denoised(peer, delays[peer.name], item.mixture, rate) for peer in peers}
        for name, (estimate, spent) in found.items():
            scores.append(Score(item.task, number, name, before, si_sdr(estimate, speech) - before, spent / seconds))
    return {
        "ussfast": ussfast.__version__, "torch": torch.__version__,
        "machine": machine(torch.device("cpu")), "load": os.getloadavg()[0],
        "threads": 1, "count": count, "seconds": SECONDS, "seed": SEED, "sample_rate": rate, "systems": systems,
        "scores": [asdict(score) for score in scores],
    }  # fmt: skip


def updated(old: dict[str, Any], new: dict[str, Any], same_speed: bool = False) -> dict[str, Any]:
    """`old` with the systems of `new` in place of its own of those names; ours come first.

    same_speed: only what is separated how well is that of `new`.

    Raises:
        InputError: they are not of the same mixtures.
    """
    before = {(score["task"], score["mixture"]): score["si_sdr_before"] for score in old["scores"]}
    for score in new["scores"]:
        was = before.get((score["task"], score["mixture"]))
        if was is None or abs(was - score["si_sdr_before"]) > 1e-3:  # dB
            raise InputError(f"--update: mixture {score['mixture']} of {score['task']} is not that of the file")
    if same_speed:
        spent = {(one["task"], one["mixture"], one["system"]): one["cpu_per_second"] for one in old["scores"]}
        for one in new["scores"]:
            one["cpu_per_second"] = spent[one["task"], one["mixture"], one["system"]]
        new["systems"] = {name: old["systems"][name] for name in new["systems"]}
    kept = {name: system for name, system in old["systems"].items() if name not in new["systems"]}
    ours = {name: system for name, system in kept.items() if "sample_rate" not in system}
    systems = new["systems"] | ours | kept
    if "default" in systems:
        systems = {"default": systems["default"]} | systems
    scores = [score for score in old["scores"] if score["system"] in kept] + new["scores"]
    return old | {"systems": systems, "scores": scores}


def table(found: dict[str, Any]) -> str:
    """Markdown, one line per task and system."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for task in TASKS:
        for name, system in found["systems"].items():
            own = [score for score in found["scores"] if (score["task"], score["system"]) == (task, name)]
            if not own:
                continue
            gain = [score["si_sdr_improvement"] for score in own]
            before, spent = (np.mean([score[key] for score in own]) for key in ("si_sdr_before", "cpu_per_second"))
            latency = "whole file" if system["latency_ms"] is None else f"{system['latency_ms']:.0f}"
            lines.append(
                f"| {task} | {name} | {len(own)} | {before:.1f} | {np.mean(gain):.1f} | {np.median(gain):.1f} "
                f"| {1000 * spent:.1f} | {latency} |"
            )
    versions = ", ".join(f"{name}: {system['version']}" for name, system in found["systems"].items())
    return "\n".join([*lines, "", f"{versions}; torch {found['torch']}; {found['machine']}. {LEGEND}", ""])


def main(
    manifest: Annotated[Path, typer.Argument(help="manifest.json with a dev split (docs/data.md).")],
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="By default default alone.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Mixtures per task.")] = 40,
    peer: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PEERS)}; by default all.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON; the table is written beside it.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Measure -m and --peer only, the rest of -o stays.")] = False,
    same_speed: Annotated[bool, typer.Option("--same-speed", help="With --update: CPU times stay.")] = False,
) -> None:
    if unknown := [name for name in peer or () if name not in PEERS]:
        raise SystemExit(f"error: no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    torch.set_num_threads(1)
    try:
        old = json.loads(output.read_text()) if update and output is not None else None
        peers: list[Denoiser] = [PEERS[name]() for name in peer or (() if update else PEERS)]
        items = [item for item in read_manifest(manifest) if item.split == "dev"]
        separators = [Separator(name, device="cpu") for name in model or ("default",)]
        found = compare(separators, peers, AudioPool.load(items, separators[0].sample_rate), count)
        if old is not None:
            found = updated(old, found, same_speed)
    except (MissingPackage, InputError) as error:
        raise SystemExit(f"error: {error}") from None
    print(table(found))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        output.with_suffix(".md").write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
