"""What the pages for readers say that can be checked: commands, Python, links."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Programs that pages call and that are not ours.
OTHERS = {"arecord", "aplay", "ffmpeg", "sox", "git", "cd", "pip", "apt", "docker", "curl", "openssl"}
OURS = {"ussfast", "python", "torchrun", "make"}


class Command(NamedTuple):
    page: str
    words: tuple[str, ...]  # without settings of the environment; the program without its folder

    @property
    def program(self) -> str:
        return self.words[0]

    @property
    def ussfast(self) -> tuple[str, ...] | None:
        """Arguments of ours, if it is that."""
        if self.program == "ussfast":
            return self.words[1:]
        if self.program in ("python", "torchrun") and "-m" in self.words:
            at = self.words.index("-m") + 1
            if self.words[at] == "ussfast.export":  # another name of the command
                return ("export", *self.words[at + 1 :])
            return self.words[at + 1 :] if self.words[at] == "ussfast" else None
        return None

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"(?ms)^```python\n(.*?)^```$", page.read_text())


def _split(line: str) -> list[list[str]]:
    """The commands of a line, at | and && and ;."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split, lexer.commenters = True, "#"
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;"):
            found.append([])
        else:
            found[-1].append(word)
    return [words[: words.index(">")] if ">" in words else words for words in found if words]


def commands(page: Path) -> list[Command]:
    """Commands of the indented blocks. A block is one of commands if it begins with a program, or sets a variable."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    text = re.sub(r"\\\n|(?<=\|)\n(?= {6})", " ", text)  # one command over several lines
    found = []
    for block in re.findall(r"(?m)(?:^    (?! ).*\n)+", text):
        parsed = []
        for line in block.splitlines():
            for words in _split(line):
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    words = words[1:]
                parsed.append(Command(page.name, (Path(words[0]).name, *words[1:])))
        if parsed and parsed[0].program in OURS | OTHERS:
            found += parsed
    return found


def links(page: Path) -> list[str]:
    """Targets within the tree, pictures too."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """Those of headings, as GitHub and GitLab make them."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
