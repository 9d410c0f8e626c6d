"""Ways to change what JSON and YAML hold, shared by targets."""

import copy
import json
import random
from typing import Any

from fuzz.mutate import changed

NUMBERS = (0, 1, -1, 2, 3, 7, 64, 256, 1000, 48000, 10**6, 10**8, 2**31, 2**63, 10**19, 10**400, 0.0, 0.5, -0.5, 1e-30)
ODD: tuple[Any, ...] = (
    *NUMBERS,
    1e30,
    float("nan"),
    float("inf"),
    None,
    True,
    False,
    "",
    "a",
    "\0",
    "a\nb",
    "\ud800",
    "x" * 300,
    "../a",
    [],
    {},
)


def changed_tree(tree: Any, rng: random.Random, most: int = 2) -> Any:
    """A copy with up to `most` changes: values replaced, numbers moved, entries dropped, doubled, exchanged or new."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, most)):
        places = list(_places(tree))
        if not places:
            return rng.choice(ODD)
        at, key = rng.choice(places)
        match rng.randrange(9):
            case 0:
                at[key] = rng.choice(ODD)
            case 1:
                del at[key]
            case 2:
                other, there = rng.choice(places)
                at[key] = copy.deepcopy(other[there])
            case 3 if isinstance(at, list):
                at.insert(key, copy.deepcopy(at[key]))
            case 3:
                at[rng.choice(("a", "x" * 300, "a\nb", *at))] = at[key]
            case 4:
                at[key] = [at[key]] if rng.random() < 0.5 else {"a": at[key]}
            case _:
                at[key] = _near(at[key], rng)
    return tree


def _near(value: Any, rng: random.Random) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, 2 * value, value // 2, -value, rng.choice(NUMBERS)))
    if isinstance(value, float):
        return rng.choice((value * 2, value / 1000, -value, value + 1e-9, rng.choice(NUMBERS)))
    if isinstance(value, str):
        return rng.choice(
            (value + "x", value[1:], value.upper(), value * 3, rng.choice(("hann", "reflect", "learnable")))
        )
    if isinstance(value, list):
        return value[::-1] if rng.random() < 0.5 else value * rng.choice((2, 3, 40))
    return value


def _places(tree: Any) -> Any:
    """(table or list, key) of every value below the top."""
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def written(tree: Any, rng: random.Random) -> bytes:
    """As JSON, one time in eight with changed bytes."""
    data = json.dumps(tree).encode()
    return changed(data, rng, 2) if rng.random() < 0.125 else data
