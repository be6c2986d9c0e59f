"""What the tests share."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """The real piece of COCO, or a skip where it is absent."""
    root = Path(os.environ.get("COCO_TINY", REPO.parent / "shared" / "data" / "coco_tiny"))
    if not root.is_dir():
        pytest.skip(f"no real COCO images at {root}; set COCO_TINY to their folder")
    return root
