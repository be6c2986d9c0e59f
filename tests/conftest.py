"""What the tests share."""

import os
from pathlib import Path

import pytest
from mmengine.registry import init_default_scope

import mmconvnext  # noqa: F401 (must come before the mmcv.ops and the mmdet that the tests import)

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


@pytest.fixture(autouse=True)
def _scope() -> None:
    """MMDetection's registries are asked, whatever scope the runner of an earlier test left."""
    init_default_scope("mmdet")
