"""Candidates that cost nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.comparison import Candidate

FOLDER = str(Path(__file__).parent)


@pytest.fixture
def dummy() -> Callable[..., Candidate]:
    """Describe a dummy by its name and arguments."""

    def describe(name: str, factory: str = "dummies:Dummy", **arguments: object) -> Candidate:
        return Candidate(name, factory, arguments, (FOLDER,))

    return describe
