"""JavaScript in Node.js, for tests of pages."""

import re
import shutil
import subprocess

import pytest


def node(*arguments):
    """A finished run; skips where Node.js is missing or too old for its own test runner."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    if int(re.match(r"v(\d+)", version)[1]) < 20:
        pytest.skip(f"node {version.strip()}: its own test runner came with 20")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300)


def check_modules(path):
    """All tests of a file pass, and there are some."""
    done = node("--test", str(path))
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(?m)^# pass (\d+)", done.stdout)[1]) > 3
