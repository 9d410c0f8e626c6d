"""Holds a built site to this: every link within it leads somewhere, and nothing of a page is loaded from elsewhere.

    python scripts/site/check.py build/site

External links of the text are not followed: that needs a network.
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "audio": "src", "video": "src"}
LOADING_LINKS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "manifest", "modulepreload"}


class Page(HTMLParser):
    """Attributes: ids; links, that a reader may follow; loaded, what the browser fetches by itself."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and set(given.get("rel", "").split()) & LOADING_LINKS:
            self.loaded.append(given.get("href", ""))
        if tag in LOADED and LOADED[tag] in given:
            self.loaded.append(given[LOADED[tag]])


def problems(site: Path) -> Iterator[str]:
    """A line for each; a site without pages is one, too."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site} has no pages"
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for target in page.loaded:
            if _elsewhere(target):
                yield f"{name} loads {target}"
            elif not target.startswith("data:") and not _file(path, target, site).is_file():
                yield f"{name} loads {target}, which is not there"
        for target in page.links:
            if _elsewhere(target) or target.startswith("mailto:"):
                continue
            file = _file(path, target, site)
            anchor = unquote(urlsplit(target).fragment)
            if not file.is_file():
                yield f"{name} links to {target}, which is not there"
            elif anchor and file in pages and anchor not in pages[file].ids:
                yield f"{name} links to {target}, which has no such place"
    for sheet in sorted(site.rglob("*.css")):
        text = sheet.read_text(encoding="utf-8")
        if "url(http" in text or "url(//" in text or "@import" in text:
            yield f"{sheet.relative_to(site)} loads from elsewhere"


def _elsewhere(target: str) -> bool:
    return bool(urlsplit(target).netloc)


def _file(page: Path, target: str, site: Path) -> Path:
    path = unquote(urlsplit(target).path)
    found = site.resolve() / path.lstrip("/") if path.startswith("/") else page.parent / path
    found = found.resolve() if path else page
    return found / "index.html" if found.is_dir() else found


if __name__ == "__main__":
    wrong = list(problems(Path(sys.argv[1])))
    print("\n".join(wrong) or f"{sys.argv[1]}: links lead somewhere")
    sys.exit(bool(wrong))
