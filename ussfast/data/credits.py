"""Credits for weights: what they were trained on, by licence, from the manifest."""

import re
from collections import defaultdict

from ussfast.data.pool import Item


def credits(items: list[Item], name: str) -> str:
    """A Markdown list of the sources of these items, by licence, with the number of clips and minutes of each."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        # Numbers and moods of generated songs say nothing about who is to be credited.
        source = re.sub(r"generated song \d+( \([^)]*\))?[:,]", "generated songs,", item.source)
        found[item.license][source].append(item.seconds)
    lines = [f"# What {name} was trained on", ""]
    for license in sorted(found):
        lines += [f"## {license}", ""]
        for source, seconds in sorted(found[license].items()):
            lines.append(f"- {source}: {len(seconds)} clips, {sum(seconds) / 60:.1f} minutes")
        lines.append("")
    return "\n".join(lines)
