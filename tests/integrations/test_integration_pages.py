"""The examples of docs/integrations.md that need other packages; the others run with all pages."""

import importlib.util
import re

import pytest
from docs_pages import ROOT

PAGE = ROOT / "docs/integrations.md"
BLOCKS = re.findall(r"(?ms)^```py\n(.*?)^```$", PAGE.read_text())
NEEDED = re.compile(r"(?m)^from (pipecat|livekit|aiortc)\b")


def test_there_is_one_for_each_adapter():
    assert [NEEDED.search(block)[1] for block in BLOCKS] == ["pipecat", "livekit", "aiortc"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: NEEDED.search(block)[1])
def test_examples_run(block):
    package = NEEDED.search(block)[1]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    exec(compile(block, str(PAGE), "exec"), {})
