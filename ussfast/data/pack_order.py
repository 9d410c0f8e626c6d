"""Which audio of a manifest to keep first when not all of it fits: whole songs, and something of every label."""

import hashlib
from collections import defaultdict

from ussfast.data.manifest import Row

Unit = list[int]  # positions of rows that are kept or dropped together


def units_of(rows: list[Row]) -> list[Unit]:
    """The rows of one song of a split together, every other row alone; stems without a song by what they align with."""
    units: dict[tuple[str, ...], Unit] = defaultdict(list)
    key: tuple[str, ...]
    for position, row in enumerate(rows):
        if row.get("song"):
            key = ("song", str(row["song"]), row["split"])
        elif row.get("aligned_with"):
            key = ("aligned", min(row["path"], *row["aligned_with"]))
        else:
            key = ("row", str(position))
        units[key].append(position)
    return list(units.values())


def keep_order(rows: list[Row], units: list[Unit]) -> list[Unit]:
    """Units from the first to the last to keep; cut anywhere, it is spread evenly.

    Every label (speaker; songs count as one label) of a prompt and split comes once before any comes twice. From then
    on all labels grow at the same pace relative to what they have. Order inside a label follows from hashes of the
    paths, so it is the same on every machine and does not favour what happens to be listed first.
    """
    pools: dict[tuple[str, ...], dict[str, list[Unit]]] = defaultdict(lambda: defaultdict(list))
    chance = {unit[0]: _chance(rows[unit[0]]["path"]) for unit in units}
    for unit in units:
        prompts = sorted({str(rows[position]["prompt"]) for position in unit})
        pools[(str(rows[unit[0]]["split"]), *prompts)][_label(rows, unit)].append(unit)
    ranked: list[tuple[bool, float, str, Unit]] = []
    for labels in pools.values():
        by_chance = sorted(labels.values(), key=lambda units: min(chance[unit[0]] for unit in units))
        for place, members in enumerate(by_chance):
            members.sort(key=lambda unit: chance[unit[0]])
            for rank, unit in enumerate(members):
                share = rank / len(members) if rank else place / len(by_chance)
                ranked.append((rank > 0, share, chance[unit[0]], unit))
    return [unit for *_, unit in sorted(ranked)]


def _label(rows: list[Row], unit: Unit) -> str:
    row = rows[unit[0]]
    if len(unit) > 1 or row.get("song"):
        return ""
    # Of several labels the first: combinations would each count as a label that must not be lost.
    return str(row.get("speaker") or row.get("label") or "").partition(",")[0]


def _chance(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()
