"""Which prompts stand together in a mixture, and which can be asked for although they are not in it.

Source: the unified 2-4 source recipe of Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025.
"""

from collections.abc import Iterable

import numpy as np

from ussfast.data.manifest import STEMS

BACKGROUNDS = {"sfxbg": ("sfx",), "musicbg": STEMS}

FIRST = {"speech": 0.2, "sfx": 0.2, "sfxbg": 0.2, "musicbg": 0.2} | dict.fromkeys(STEMS, 0.05)
# Probability of the next prompt after the row's prompt; 0 forbids the pair anywhere in one mixture.
NEXT: dict[str, dict[str, float]] = {
    "speech": {"speech": 0.4, "sfx": 0.1, "sfxbg": 0.2, "musicbg": 0.2} | dict.fromkeys(STEMS, 0.025),
    "sfx": {"speech": 0.2, "sfx": 0.5, "sfxbg": 0.0, "musicbg": 0.2} | dict.fromkeys(STEMS, 0.025),
    "sfxbg": {"speech": 0.5, "sfx": 0.0, "sfxbg": 0.0, "musicbg": 0.4} | dict.fromkeys(STEMS, 0.025),
    "musicbg": {"speech": 0.33, "sfx": 0.33, "sfxbg": 0.33, "musicbg": 0.0} | dict.fromkeys(STEMS, 0.0),
} | {
    stem: {"speech": 0.0333, "sfx": 0.0333, "sfxbg": 0.0333, "musicbg": 0.0}
    | {other: 0.0 if other == stem else 0.3 for other in STEMS}
    for stem in STEMS
}
REPEATABLE = ("speech", "sfx")


def draw_chain(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """A chain of `count` prompts: each follows from the one before it, and none may be forbidden by an earlier one."""

    def pick(weights: dict[str, float]) -> str:
        total = sum(weights.values())
        return str(rng.choice(list(weights), p=[w / total for w in weights.values()]))

    while True:
        chain = [pick(FIRST)]
        for _ in range(100):
            if len(chain) == count:
                return tuple(chain)
            candidate = pick(NEXT[chain[-1]])
            taken = candidate in chain and candidate not in REPEATABLE
            if not taken and all(NEXT[earlier][candidate] > 0 for earlier in chain):
                chain.append(candidate)


def absent_prompts(present: Iterable[str]) -> list[str]:
    """The prompts that nothing in a mixture of the prompts `present` answers to, in the order of NEXT; may be empty.

    A background and what it is made of answer to each other's prompts: a recording of rain is an effect as well.
    """
    answered = set(present)
    for whole, parts in BACKGROUNDS.items():
        if whole in answered:
            answered.update(parts)
        elif not answered.isdisjoint(parts):
            answered.add(whole)
    return [prompt for prompt in NEXT if prompt not in answered]
