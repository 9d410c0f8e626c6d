"""The page of export/web without a browser: its modules in Node.js, and what its files say of each other."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from node import check_modules, node

ROOT = Path(__file__).parents[2]
WEB = ROOT / "export/web"
SCRIPTS = sorted(WEB.glob("*.js"))
OWN = [path for path in WEB.iterdir() if path.suffix in (".js", ".html", ".css")]
TESTS = sorted((Path(__file__).parent / "web").glob("*.test.mjs"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_modules(path):
    check_modules(path)


def test_every_script_parses():
    for path in SCRIPTS:
        done = node("--check", str(path))
        assert done.returncode == 0, done.stderr


def test_files_that_import_each_other_are_there():
    asked = {path.name: set(re.findall(r'"\./([\w.]+)"', path.read_text())) for path in SCRIPTS}
    asked["urls"] = {n for p in SCRIPTS for n in re.findall(r'new URL\(["`](\w+\.js)', p.read_text())}
    asked["page"] = set(re.findall(r'(?:src|href)="([\w.]+)"', (WEB / "index.html").read_text()))
    assert {"page.js", "page.css"} <= asked["page"] and {"worker.js", "worklet.js"} <= asked["urls"]
    used = {name for names in asked.values() for name in names}
    assert used <= {path.name for path in OWN}
    assert {path.name for path in OWN} - used == {"index.html"}, "a file that nothing uses"


def test_the_page_knows_no_address_but_its_own():
    for path in OWN:
        assert not re.search(r"https?://|wss?://|//cdn|XMLHttpRequest|sendBeacon|WebSocket", path.read_text()), path
    assert re.search(r"connect-src 'self';", (WEB / "index.html").read_text())


def test_scripts_know_no_model():
    for path in SCRIPTS:
        assert not re.search(r"\b(512|1024|32000|speech|sfx\w*|memory\d|overlap)\b(?!\.)", code(path)), path


def code(path):
    """Without comments."""
    return re.sub(r"(?m)//.*$|/\*(?s:.*?)\*/", "", path.read_text())


def test_lines_are_no_longer_than_elsewhere():
    for path in [*OWN, *TESTS]:
        lines = path.read_text().splitlines()
        assert len(lines) <= 300 and max(map(len, lines)) <= 120, path


def test_the_readme_names_every_file_and_no_other():
    named = set(re.findall(r"`([\w-]+\.(?:js|html|css|sh|json))`", (WEB / "README.md").read_text()))
    made = {"export.json", "prompts.json"}  # in model/
    there = {path.name for path in WEB.iterdir() if path.is_file()}
    assert named - made == there - {"README.md"}


def test_what_make_web_puts_there_is_not_checked_in():
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    for path in ("export/web/model/export.json", "export/web/ort/ort.wasm.min.mjs"):
        ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT)
        assert ignored.returncode in (0, 128)  # 128: no git here
