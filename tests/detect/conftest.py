"""What tests of detectors share."""

import pytest
from short_detector import shortened

from ussfast import Detector


@pytest.fixture(scope="module")
def detector():
    return Detector.from_model(shortened())
