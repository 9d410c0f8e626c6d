"""Filters whose work takes no time: a busy machine shows in no test; those of overruns bring a clock of their own."""

import pytest

from ussfast.integrations.live_filter import LiveFilter


@pytest.fixture(scope="package", autouse=True)
def still():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LiveFilter.__init__.__kwdefaults__, "clock", lambda: 0.0)
        yield
