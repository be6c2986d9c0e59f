"""What the tests of commands share."""

from collections import OrderedDict

import pytest
from mmengine.logging import MMLogger


@pytest.fixture(autouse=True)
def _no_logger_of_other_tests(monkeypatch):
    """MMEngine keeps loggers by name, with the stderr that was captured when they were made."""
    monkeypatch.setattr(MMLogger, "_instance_dict", OrderedDict())
