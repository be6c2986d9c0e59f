"""Detectors of random weights, which find a lot, and pictures of many sizes."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmconvnext.engine.config import load_config

MASK, CASCADE = "mask_rcnn_convnext_shapes", "cascade_convnext_shapes"
CLASSES = ("disk", "triangle", "cross")
SIZES = [(64, 64), (96, 160), (33, 200), (150, 150), (97, 41), (20, 20), (130, 70), (64, 65)]


def config(name: str, resize: dict | None = None, **changes) -> Config:
    """A config with a smaller backbone and fewer regions, and maybe with another ``Resize``.

    Mask R-CNN has V2's blocks, the cascade V1's, which are those of DINOv3 too.
    """
    cfg = load_config(name)
    arch = {"_delete_": True, "depths": (1, 1, 1, 1), "widths": (8, 16, 24, 32)}
    cfg.merge_from_dict(
        {
            "model.backbone.arch": arch,
            "model.backbone.use_grn": name == MASK,
            "model.neck.in_channels": [8, 16, 24, 32],
            "model.test_cfg.rpn.nms_pre": 100,
            "model.test_cfg.rpn.max_per_img": 120,
            "model.test_cfg.rcnn.max_per_img": 30,
            **changes,
        }
    )
    if resize:
        cfg.test_dataloader.dataset.pipeline[1] = resize
    return cfg


def weights(cfg: Config, path: Path) -> None:
    """Random weights, larger than those to begin with: boxes are no anchors, masks have edges."""
    torch.manual_seed(0)
    state = MODELS.build(cfg.model).state_dict()
    for key, value in state.items():
        if "head" in key and key.endswith("weight"):
            value *= 60 if "conv_logits" in key else 2
        if "grn." in key:  # zeros at first: no normalisation
            value += 0.5
        if "conv_logits.bias" in key:  # where all features are 0, masks are at the threshold
            value -= 1
    torch.save({"meta": {"dataset_meta": {"classes": CLASSES}}, "state_dict": state}, path)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of random weights for each config."""
    init_default_scope("mmdet")
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {name: folder / f"{name}.pth" for name in (MASK, CASCADE)}
    for name, path in paths.items():
        weights(config(name), path)
    return paths


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[str]:
    """Noise of several sizes, one without anything."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for height, width in SIZES:
        blurred = cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), (width, height))
        cv2.imwrite(str(folder / f"{height}x{width}.png"), blurred)
    cv2.imwrite(str(folder / "black.png"), np.zeros((80, 80, 3), np.uint8))
    return sorted(map(str, folder.iterdir()))
