"""docs/images/rooms.svg and path.svg: the parts of ussfast, and what a recording passes through.

    python scripts/diagrams.py            # draws them
    python scripts/diagrams.py --check    # 1 if there are others: make docs

Rooms are those of the table in CONTRIBUTING.md; colours do on a bright page and on a dark one.
"""

import re
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
# What each layer is called, and the room of the table that it begins with.
LAYERS = (
    ("what everything stands on", "errors.py"),
    ("networks and their kernels", "_ext.py"),
    ("running a model", "long_audio/"),
    ("what programs hold", "separation.py"),
    ("other programs, other runtimes, servers", "integrations/"),
    ("making models", "data/"),
    ("command line", "cli/"),
)
COLOURS = ("#546e7a", "#00695c", "#00796b", "#00897b", "#3949ab", "#6a4c93", "#455a64")
GREY, WIDTH, HEIGHT, GAP = "#8a8f98", 132, 34, 10
STEPS = (
    ("audio/", "decode, resample"),
    ("long_audio/, streaming/", "windows, or hops"),
    ("stft.py", "spectra"),
    ("models/ on ops/", "a mask for each prompt"),
    ("stft.py", "waveforms"),
    ("separation.py", "stems at the input's rate"),
)


def rooms(text: str) -> list[str]:
    """The rooms of a table, in order."""
    return re.findall(r"(?m)^\| `([\w./]+)` \|", text.partition("\n## Rooms\n")[2].partition("\n## ")[0])


def layers(names: list[str]) -> list[list[str]]:
    """Rooms by layer; ValueError where the first of a layer is not among them, in order."""
    starts = [names.index(first) for _, first in LAYERS]
    if starts[0] or starts != sorted(starts):
        raise ValueError(f"layers do not begin where the table has their rooms: {starts}")
    return [names[a:b] for a, b in zip(starts, [*starts[1:], len(names)], strict=True)]


def _box(x: float, y: float, width: float, colour: str, text: str, below: str = "", height: float = HEIGHT) -> str:
    middle = x + width / 2
    said = f'<text x="{middle}" y="{y + (height / 2 if not below else 19)}" class="b">{escape(text)}</text>'
    said += f'<text x="{middle}" y="{y + 36}" class="s">{escape(below)}</text>' if below else ""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{colour}"/>{said}'


def _svg(width: float, height: float, what: str, parts: list[str]) -> str:
    style = (
        "text{font-family:system-ui,sans-serif;font-size:13px}"
        ".b{fill:#fff;text-anchor:middle;dominant-baseline:middle}"
        ".s{fill:#fff;text-anchor:middle;dominant-baseline:middle;font-size:11px;opacity:.85}"
        f".l{{fill:{GREY};font-size:13px}}.a{{stroke:{GREY};stroke-width:1.6;fill:none;marker-end:url(#t)}}"
    )
    tip = '<marker id="t" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    tip += f'<path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{what}">'
    return "\n".join([head, f"<style>{style}</style><defs>{tip}</defs>", *parts, "</svg>", ""])


def map_of_rooms(names: list[str]) -> str:
    """Layers above one another, the lowest at the bottom: what is above imports what is below."""
    rows, parts, width = layers(names), [], 6 * (WIDTH + GAP) + GAP
    y = GAP
    for (title, _), row, colour in reversed(list(zip(LAYERS, rows, COLOURS, strict=True))):
        parts.append(f'<text x="{GAP}" y="{y + 12}" class="l">{escape(title)}</text>')
        y += 20
        size = (width - GAP) / len(row) - GAP
        parts += [_box(GAP + at * (size + GAP), y, round(size, 1), colour, name) for at, name in enumerate(row)]
        y += HEIGHT + 14
    return _svg(width, y, "The rooms of ussfast in layers", parts)


def path_of_audio() -> str:
    """From a recording to its stems, and where prompts come in."""
    size, gap, height = 176, 28, 48
    width = 3 * size + 2 * gap + 2 * 96
    parts = ['<text x="4" y="38" class="l">recording,</text><text x="4" y="54" class="l">live audio</text>']
    for at, (name, below) in enumerate(STEPS):
        row, column = divmod(at, 3)
        x, y = 96 + (column if row == 0 else 2 - column) * (size + gap), 18 + row * 96
        parts.append(_box(x, y, size, "#00897b" if "models" in name else "#00695c", name, below, height))
    for row, y in ((0, 42), (1, 138)):
        for column in range(2):
            a, b = 96 + column * (size + gap) + size, 96 + (column + 1) * (size + gap)
            start, end = (a + 2, b - 2) if row == 0 else (b - 2, a + 2)
            parts.append(f'<path class="a" d="M{start} {y}H{end}"/>')
    right = 96 + 2 * (size + gap) + size / 2
    parts += [
        '<path class="a" d="M72 42H94"/>', f'<path class="a" d="M{right} 68V112"/>', '<path class="a" d="M94 138H72"/>',
        '<text x="4" y="134" class="l">files,</text><text x="4" y="150" class="l">pieces</text>',
        _box(right - size / 2, 212, size, "#3949ab", "prompts/", "a vector for each sound", height),
        f'<path class="a" d="M{right} 210V166"/>',
        _box(right - size / 2 - size - gap, 212, size, "#6a4c93", "detect/, tuning/", "found, shown, learned", height),
        f'<path class="a" d="M{right - size / 2 - gap + 2} 236H{right - size / 2 - 2}"/>',
    ]  # fmt: skip
    return _svg(width, 270, "What a recording passes through", parts)


def build() -> dict[Path, str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {IMAGES / "rooms.svg": map_of_rooms(rooms(text)), IMAGES / "path.svg": path_of_audio()}


def main(arguments: list[str]) -> int:
    made = build()
    if arguments == ["--check"]:
        old = [path for path, content in made.items() if path.read_text(encoding="utf-8") != content]
        for path in old:
            print(f"{path} is not what CONTRIBUTING.md has: python scripts/diagrams.py", file=sys.stderr)
        return int(bool(old))
    for path, content in made.items():
        path.write_text(content, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
