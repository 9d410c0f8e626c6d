"""The files of the server's page without a browser: modules in Node.js, headers, what they say of each other."""

import base64
import hashlib
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from node import check_modules
from starlette.testclient import TestClient

from ussfast.serve.web import PAGE, WAVESURFER_STYLE, add_page, policies

SCRIPTS = sorted(PAGE.glob("js/*.js"))
OWN = [path for path in PAGE.rglob("*") if path.suffix in (".js", ".html", ".css") and "vendor" not in path.parts]
VENDOR = PAGE / "vendor"
TESTS = sorted((Path(__file__).parent / "page").glob("*.test.mjs"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_modules(path):
    check_modules(path)


def test_every_file_is_used_and_every_file_that_is_used_is_there():
    used = set()
    for path in SCRIPTS:
        found = re.findall(r'(?:from|import|new URL\()\s*"(\.[\w./-]+|[\w-]+\.js)"', path.read_text())
        used |= {(path.parent / name).resolve() for name in found}
    named = re.findall(r'(?:src|href)="/page/([\w./-]+)"', (PAGE / "index.html").read_text())
    used |= {PAGE / name for name in named}
    assert all(path.is_file() for path in used)
    there = {path for path in PAGE.rglob("*.*") if path.suffix in (".js", ".css", ".svg")}
    assert there == used


def test_the_page_knows_no_address_but_its_own():
    for path in OWN:
        assert not re.search(r"https?://|wss?://|//cdn|sendBeacon|eval\(|innerHTML", path.read_text()), path


def test_nothing_is_inline():
    text = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", text)
    for path in SCRIPTS:
        assert 'setAttribute("style"' not in path.read_text()


def test_files_are_short():
    for path in [*OWN, *TESTS]:
        lines = path.read_text().splitlines()
        assert len(lines) <= 300 and max(map(len, lines)) <= 120, path


def test_the_policy_allows_the_style_sheet_of_wavesurfer_and_no_other():
    text = (VENDOR / "wavesurfer.esm.js").read_text()
    (style,) = re.findall(r'<style\$\{.*?:""\}>(.*?)</style>', text, re.DOTALL)
    height = re.search(r"const HEIGHT = (\d+)", (PAGE / "js/waves.js").read_text())[1]
    style = re.sub(r"\$\{[^}]*\}", height, style.replace("\\n", "\n"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert WAVESURFER_STYLE == f"sha256-{digest}"


def test_vendored_files_have_version_and_licence():
    notice = (VENDOR / "README.md").read_text()
    assert "Redistribution and use in source and binary forms" in (VENDOR / "LICENSE").read_text()
    scripts = {path.name for path in VENDOR.glob("*.js")}
    assert set(re.findall(r"(?m)^\| `([\w.-]+)`.*\| 7\.\d+\.\d+ \| BSD-3-Clause", notice)) == scripts
    sums = dict(re.findall(r"(?m)^\| `([\w.-]+)`.*`([0-9a-f]{64})` \|$", notice))
    assert sums == {name: hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() for name in scripts}


@pytest.fixture
def client():
    app = FastAPI()
    add_page(app)
    return TestClient(app, base_url="http://127.0.0.1:8400")


def test_the_page_comes_with_its_policy(client):
    answer = client.get("/")
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert answer.headers["content-type"].startswith("text/html")
    assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self' ws://127.0.0.1:8400 wss://127.0.0.1:8400"
    assert policy["frame-ancestors"] == "'none'" and "unsafe" not in str(policy)
    assert answer.headers["cache-control"] == "no-cache" and answer.headers["x-content-type-options"] == "nosniff"


def test_files_of_the_page_are_asked_for_again(client):
    for path in ("/page/js/main.js", "/page/css/page.css", "/page/vendor/wavesurfer.esm.js", "/page/example.flac"):
        first = client.get(path)
        assert first.status_code == 200 and first.headers["cache-control"] == "no-cache", path
        if not path.endswith(".flac"):
            assert client.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    assert client.get("/page/js/").status_code == client.get("/page/../web.py").status_code == 404


def test_a_host_that_is_none_stays_out_of_the_policy():
    assert "ws://[::1]:8400" in policies("[::1]:8400")["Content-Security-Policy"]
    for host in ("a; script-src *", "a b", "", "a'"):
        assert "connect-src 'self';" in policies(host)["Content-Security-Policy"]
