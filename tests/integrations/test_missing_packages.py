"""Adapters without the packages that they are for."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module, package", [("pipecat", "pipecat"), ("livekit", "livekit"), ("aiortc", "aiortc")])
def test_the_error_says_what_to_install(module, package, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, f"ussfast.integrations.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'ussfast\[{module}\]'"):
        importlib.import_module(f"ussfast.integrations.{module}")


def test_the_filter_itself_needs_none_of_them():
    script = (
        "import sys\nfor name in ('pipecat', 'livekit', 'aiortc', 'av'): sys.modules[name] = None\n"
        "import ussfast.integrations.following"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
