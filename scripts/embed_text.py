"""What `make embed` writes in words: the model card, the table in README.md, the line in CHANGELOG.md."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from marked import replaced

from ussfast import demo
from ussfast.audio import read
from ussfast.checkpoints.info import ModelInfo
from ussfast.errors import InputError
from ussfast.evaluate.dev import TASKS
from ussfast.evaluate.metrics import si_sdr
from ussfast.profiling.flops import model_flop
from ussfast.separator import Separator

SPOKEN = {
    "speech_enhancement": "speech + ambience", "speech_speech": "two speakers", "sfx_sfx": "two sound effects",
    "music": "drums, bass, vocals, other", "cinematic": "speech + ambience + music",
}  # fmt: skip
ABSENT = "absent"
BEGIN, END = "<!-- figures of the embedded model: made by make embed -->", "<!-- end of figures -->"
CHANGE = "- The embedded default model is a new one"
LIMITS = re.compile(r"^## Limits\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def figures(evaluation: dict[str, Any]) -> dict[str, float]:
    """The six figures that the rule compares, in dB, more is better: mean SI-SDR improvement over the sources of each
    task, and how far below the mixture the output of an absent prompt is.

    Raises:
        InputError: an evaluation without one of them.
    """
    try:
        found = {task: evaluation["tasks"][task]["all"]["model"]["si_sdr_improvement"]["mean"] for task in TASKS}
        (absent,) = evaluation["tasks"]["absent"].values()
        return found | {ABSENT: -absent["model"]["leak_db"]["mean"]}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not an evaluation of a model with all tasks and the absent prompt: {error!r}") from None


def comparison(old: dict[str, float], new: dict[str, float]) -> str:
    """A Markdown table of figures before and after, and their mean."""
    lines = ["| | before | now | change |", "|---|---|---|---|"]
    for name in [*new, "mean"]:
        before, now = (float(np.mean(list(f.values()))) if name == "mean" else f[name] for f in (old, new))
        said = {ABSENT: "absent prompt, below the mixture"}.get(name) or SPOKEN.get(name, name)
        lines.append(f"| {said} | {before:+.2f} | {now:+.2f} | {now - before:+.2f} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Facts:
    """Of a model directory: what the card says beside its figures; demo: SI-SDR improvement by prompt, in dB."""

    info: ModelInfo
    megabytes: float
    gflop: float
    latency_ms: float | None
    demo: dict[str, float]


def facts_of(separator: Separator, megabytes: float) -> Facts:
    """Measures the demonstration; the operations are those of a second of audio for two prompts."""
    info = separator.info
    mixture, rate = read(demo.HERE / "mixture.flac")
    out = separator.separate(mixture, rate, prompts=demo.PROMPTS)
    gained = {}
    for name in demo.PROMPTS:
        reference = read(demo.HERE / f"{name}.flac")[0]
        gained[name] = si_sdr(out[name], reference) - si_sdr(mixture, reference)
    seconds = 10
    gflop = model_flop(info.config, seconds * info.sample_rate, 2) / seconds / 1e9
    latency = getattr(info.config, "latency_samples", None)
    return Facts(info, megabytes, gflop, None if latency is None else 1000 * latency / info.sample_rate, gained)


def card(facts: Facts, evaluation: dict[str, Any], old: dict[str, float], before: str) -> str:
    """The model card; its section "Limits" is that of the card `before`, for a person to read again."""
    info = facts.info
    latency = "not causal" if facts.latency_ms is None else f"causal, its latency is {facts.latency_ms:.0f} ms"
    prompts = ", ".join(f"`{name}`" for name in info.prompts)
    parts = [
        f"# The embedded default model\n\nArchitecture `{info.architecture}`, {latency}. "
        f"{info.sample_rate / 1000:g} kHz, {info.parameters / 1e6:.2f} M parameters, stored in float16 "
        f"({facts.megabytes:.1f} MB), {facts.gflop:.1f} GFLOP per second of audio for two prompts.\n"
        f"Prompts: {prompts}.",
        f"## How good it is\n\n`ussfast evaluate`: {evaluation['count']} mixtures of {evaluation['seconds']:g} s per "
        f"task, split `{evaluation['split']}`, "
        f"seed {evaluation['seed']} (docs/evaluation.md). Mean over sources in dB:",
        table(evaluation),
        f"The same figures of the default before it:\n\n{comparison(old, figures(evaluation))}",
        *conditions(evaluation),
        "The bundled demonstration (`ussfast demo`, a voice in the wind at 0 dB): "
        + ", ".join(f"{name} {value:+.1f}" for name, value in facts.demo.items())
        + ".",
    ]
    if kept := LIMITS.search(before):
        parts.append(kept[0].strip())
    source = ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in info.source.items())
    parts.append(f"## How it was made\n\n{source[:1].upper()}{source[1:]}.")
    parts.append(f"{info.license}. CREDITS.md lists all audio; keep it with the weights.")
    return "\n\n".join(parts) + "\n"


def table(evaluation: dict[str, Any]) -> str:
    """Markdown: SI-SDR improvement per task and prompt, by query where that was measured, and the absent prompt."""
    lines = ["| task | SI-SDR improvement (dB) | per prompt |", "|---|---|---|"]
    for task in TASKS:
        rows = evaluation["tasks"][task]
        means = {prompt: row["model"]["si_sdr_improvement"]["mean"] for prompt, row in rows.items()}
        each = [f"{prompt} {value:+.1f}" for prompt, value in means.items() if prompt != "all" and len(means) > 2]
        if asked := evaluation["tasks"].get(f"{task} by query"):
            each.append(f"by example clips {asked['all']['model']['si_sdr_improvement']['mean']:+.1f}")
        lines.append(f"| {SPOKEN[task]} | {means['all']:+.1f} | {', '.join(each)} |")
    absent = figures(evaluation)[ABSENT]
    return "\n".join(lines) + f"\n\nWhat comes out for a prompt that is absent is {absent:.1f} dB below the mixture."


def conditions(evaluation: dict[str, Any]) -> list[str]:
    """A sentence for each condition that was measured (docs/evaluation.md)."""
    found, said = evaluation.get("conditions", {}), []
    if row := found.get("high_band"):
        alone, noisy, background = (row[name]["mean"] for name in ("alone_db", "voice_db", "background_db"))
        said.append(
            f"Above 8 kHz: of full-band voices {alone:+.1f} dB are kept alone and {noisy:+.1f} dB with a background, "
            f"which changes by {background:+.1f} dB."
        )
    if row := found.get("after_loud"):
        said.append(f"Behind a passage 26 dB louder, sources improve by {row['loss_db']['mean']:.1f} dB less.")
    return said


def readme(before: str, evaluation: dict[str, Any]) -> str:
    """README.md with another table between BEGIN and END."""
    return replaced(before, BEGIN, END, table(evaluation))


def changelog(before: str, old: dict[str, float], new: dict[str, float], facts: Facts) -> str:
    """CHANGELOG.md with a line at the end of its first release, in place of the one that an earlier call left there."""
    head, *releases = re.split(r"(?m)^(?=## )", before)
    if not releases:
        raise InputError("CHANGELOG.md has no release to add a line to")
    was, now = (float(np.mean(list(f.values()))) for f in (old, new))
    line = (
        f"{CHANGE} (`{facts.info.architecture}`): mean of five tasks and the absent prompt {was:+.1f} -> {now:+.1f} dB."
    )
    kept = [text for text in releases[0].rstrip().split("\n") if not text.startswith(CHANGE)]
    return head + "\n".join([*kept, line]) + "\n" + ("\n" if releases[1:] else "") + "".join(releases[1:])


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
