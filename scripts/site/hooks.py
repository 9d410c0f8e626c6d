"""What mkdocs does beside mkdocs.yml, so that the same pages are right on the site and in the repository.

- What pages link to outside of docs/ comes along, in a folder `repository`: Markdown as pages, other files as they are.
- A link whose text is the name of a page says its title instead, or its heading.
- A line that is nothing but a link to a section of another page stands for that section.
- In docs/api, a line that is nothing but a link with a name of ussfast stands for what its docstrings say.
"""

import re
from collections.abc import Callable
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
DOCS, ELSEWHERE = "docs", "repository"
LINK = re.compile(r"\[([^\]\[]*(?:\[[^\]]*\][^\]\[]*)*)\]\(([^)\s]+)\)")  # a picture may be in it
SECTION = re.compile(r"(?m)^\[[^\]]+\]\(([^)#\s]+)#([\w-]+)\)$")
MEMBER = re.compile(r"(?m)^\[`(ussfast[\w.]*)`\]\([^)]+\)$")
FENCED = re.compile(r"(?ms)^(```.*?^```)$")


def slug(heading: str, separator: str = "-") -> str:
    """The anchor of a heading, as GitHub and GitLab make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def place(link: str, page: str) -> str:
    """The path in the repository that a link of a page leads to; both from the root, with /."""
    return normpath(join(dirname(page), link.partition("#")[0]))


def site_source(path: str) -> str:
    """Where a file of the repository is among the site's sources."""
    return path.removeprefix(f"{DOCS}/") if path.startswith(f"{DOCS}/") else f"{ELSEWHERE}/{path}"


def in_repository(source: str) -> str:
    """The other way round."""
    return source.removeprefix(f"{ELSEWHERE}/") if source.startswith(f"{ELSEWHERE}/") else f"{DOCS}/{source}"


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if part.startswith("```") else change(part) for part in FENCED.split(text))


def leads_away(link: str) -> bool:
    return "://" in link or link.startswith(("#", "mailto:"))


def links(path: str) -> list[str]:
    """Files of the repository that a page links to."""
    found: list[str] = []

    def note(text: str) -> str:
        found.extend(place(link, path) for _, link in LINK.findall(text) if not leads_away(link))
        return text

    outside_fences((ROOT / path).read_text(encoding="utf-8"), note)
    return found


def section(path: str, anchor: str) -> str:
    """What a page says under a heading, without the heading; ValueError if there is none."""
    lines, depth, kept = (ROOT / path).read_text(encoding="utf-8").splitlines(), 0, []
    for line in lines:
        heading = re.match(r"(#+) (.*)", line)
        if heading and depth and len(heading[1]) <= depth:
            break
        if heading and not depth and slug(heading[2]) == anchor:
            depth = len(heading[1])
        elif depth:
            kept.append(line)
    if not depth:
        raise ValueError(f"{path} has no section {anchor}")
    return "\n".join(kept).strip()


def title(path: str, anchor: str) -> str | None:
    """The heading that a link leads to, the first of the page without an anchor; None if it is no page or not there."""
    if not path.endswith(".md") or not (ROOT / path).is_file():
        return None
    headings = re.findall(r"(?m)^#+ (.*)$", FENCED.sub("", (ROOT / path).read_text(encoding="utf-8")))
    return next((heading for heading in headings if not anchor or slug(heading) == anchor), None)


def rewritten(text: str, page: str, onto: str) -> str:
    """A page's text with links as they are for the source `onto` of the site."""

    def moved(found: re.Match[str]) -> str:
        said, link = found.groups()
        if leads_away(link):
            return found[0]
        path, _, anchor = link.partition("#")
        if path and said in (path, f"{DOCS}/{path}", path.rpartition("/")[2]):
            said = title(place(link, page), anchor) or said
        target = relpath(site_source(place(link, page)), dirname(onto) or ".")
        return f"[{said}]({target}{'#' if anchor else ''}{anchor})"

    # A shape such as [stem][channel] is no reference; in code it cannot be taken for one.
    shapes = re.compile(r"(`[^`]*`)|\]\[")
    return outside_fences(
        text, lambda part: shapes.sub(lambda found: found[1] or "]\\[", LINK.sub(moved, part))
    )


def on_config(config: Any) -> Any:
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds what pages link to, and what those pages link to."""
    seen = {in_repository(file.src_uri) for file in files}
    waiting = [path for path in seen if path.endswith(".md")]
    while waiting:
        for path in links(waiting.pop()):
            # A link that leads nowhere stays one, which mkdocs will say.
            if path in seen or path.startswith("..") or not (ROOT / path).is_file():
                continue
            seen.add(path)
            files.append(File.generated(config, site_source(path), abs_src_path=str(ROOT / path)))
            if path.endswith(".md"):
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    onto = page.file.src_uri
    path = in_repository(onto)
    parts: list[str] = []
    if path.startswith(f"{DOCS}/api/"):
        markdown = MEMBER.sub(r"::: \1", markdown)

    def included(found: re.Match[str]) -> str:
        other = place(found[1], path)
        parts.append(rewritten(section(other, found[2]), other, onto))
        return f"\0{len(parts) - 1}\0"

    if path.startswith(f"{DOCS}/"):
        markdown = SECTION.sub(included, markdown)
    markdown = rewritten(markdown, path, onto)
    return re.sub("\0(\\d+)\0", lambda found: parts[int(found[1])], markdown)
