"""What the tests of inference share: a detector of random weights, which finds a lot."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from mmconvnext.data import generate_shapes
from mmconvnext.engine.config import load_config

CONFIG = "mask_rcnn_convnext_shapes"
CLASSES = ("disk", "triangle", "cross")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """The folder of a small *shapes*."""
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, num_train=1, num_val=4)
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    init_default_scope("mmdet")
    cfg = load_config(CONFIG)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "detector.pth"
    state = MODELS.build(cfg.model).state_dict()
    torch.save({"meta": {"dataset_meta": {"classes": CLASSES}}, "state_dict": state}, path)
    return path
