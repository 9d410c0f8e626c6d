"""A minute of fuzzing, and that the harness tells every kind of fault."""

import random
import re

import pytest

from fuzz.harness import TARGETS, fuzz

MINUTE = 60.0
KINDS = {
    3: "KeyError: 'a traceback' @ _broken.py", 4: "the process ended: SIGABRT",
    5: "more than 3.0 s", 6: r"\d{3} MiB, 64 are the bound", 7: "AssertionError: a wrong result",
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found(target):
    outcome = fuzz(target, seed=0, first=0, count=10**9, seconds=MINUTE / len(TARGETS))
    assert not outcome.found
    assert outcome.taken > 1


def test_every_kind_of_fault_is_found():
    outcome = fuzz("_broken", seed=1, first=0, count=20)
    drawn = {number: random.Random(f"_broken/1/{number}").randrange(8) for number in range(20)}
    assert set(drawn.values()) == set(range(8)), "another seed is needed"
    assert outcome.inputs == 20
    assert sorted(outcome.found) == sorted(number for number, kind in drawn.items() if kind in KINDS)
    for number, text in outcome.found.items():
        assert re.search(KINDS[drawn[number]], text), text
    assert outcome.taken == list(drawn.values()).count(0)
    assert outcome.refused == list(drawn.values()).count(1) + list(drawn.values()).count(2)
