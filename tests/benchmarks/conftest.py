"""Candidates that cost nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.worker import Candidate
from tests.benchmarks.dummies import Dummy


@pytest.fixture
def dummy() -> Callable[..., Candidate]:
    """Describe a dummy by its name and arguments."""

    def describe(name: str, factory: Callable = Dummy, compared: bool = True, **arguments: object):
        return Candidate(name, factory, arguments, compared=compared)

    return describe
