"""Predictions as annotations to correct: a detector's answers on pictures, with polygons."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import mmdet.datasets
import numpy as np
import torch
from mmdet.apis import inference_detector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.utils import ProgressBar
from numpy.typing import NDArray
from torch import nn

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.data.formats.common import Labelled, Shape, Split, make_splits, pictures_in
from mmconvnext.data.masks import outlines
from mmconvnext.data.pictures import read_pictures
from mmconvnext.engine.classes import datasets_of, set_classes
from mmconvnext.engine.config import drop_pretrained
from mmconvnext.engine.device import adapt_to_device
from mmconvnext.engine.runner import check_checkpoint, explain_num_classes
from mmconvnext.errors import ConfigError, DataError
from mmconvnext.weights.detector import classes_of, load_matched, match_detector


def load_detector(cfg: Config, path: str) -> tuple[nn.Module, Sequence[str]]:
    """Build a config's detector for inference and load a checkpoint, every tensor of it.

    Args:
        cfg: complete; its heads get the classes of the checkpoint.
        path: of the checkpoint.

    Returns:
        The detector, on the GPU if there is one, and the names of its labels.

    Raises:
        UserError: there is no such file, it does not fit, or its classes are unknown.
    """
    check_checkpoint(path)
    checkpoint = read_checkpoint(path)
    classes = classes_of(checkpoint)
    if classes:
        set_classes(cfg, classes)
    else:
        classes = _classes_of_config(cfg)
    adapt_to_device(cfg)
    drop_pretrained(cfg)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    named = SimpleNamespace(metainfo={"classes": classes}, ann_file="the test data set")
    if fault := explain_num_classes(model, named):
        raise ConfigError(fault)
    matched = match_detector(model, checkpoint, path, must_fill=True)
    load_matched(model, matched.state_dict, matched.backbones, strict=True)
    model.cfg = cfg  # inference_detector takes the pipeline from here
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), classes


def _classes_of_config(cfg: Config) -> Sequence[str]:
    for dataset in datasets_of(cfg, "test"):
        default = getattr(getattr(mmdet.datasets, str(dataset.get("type")), None), "METAINFO", {})
        classes = {**default, **(dataset.get("metainfo") or {})}.get("classes")
        if classes:
            return classes
    raise ConfigError(
        f"neither the checkpoint nor {cfg.filename} names the classes; give them with "
        "--cfg-options \"classes=('cat','dog')\""
    )


def predict(
    model: nn.Module, classes: Sequence[str], folder: Path, score_thr: float, tolerance: float
) -> tuple[Split, list[str]]:
    """Predict on every picture of a folder, and of those in it.

    Args:
        model: of :func:`load_detector`.
        classes: names of its labels.
        folder: of pictures.
        score_thr: objects with lower scores are left out.
        tolerance: how far a polygon may be from its mask's outline, in pixels.

    Returns:
        The pictures with what was predicted, as a COCO file with scores; and a line for each
        picture that could not be used.

    Raises:
        DataError: there are no pictures.
    """
    names = [path.relative_to(folder).as_posix() for path in pictures_in(folder)]
    if not names:
        raise DataError(f"{folder} has no pictures")
    found, faults = [], []
    pictures = read_pictures(folder, names)
    bar = ProgressBar(len(names), file=sys.stderr)
    for name in names:
        fault = pictures[name].fault
        try:
            sample = None if fault else inference_detector(model, str(folder / name))
        except (OSError, ValueError, TypeError, AttributeError, cv2.error) as error:
            fault = f"cannot be predicted on: {type(error).__name__}: {error}"
        if fault:
            faults.append(f"{folder / name} {fault}")
        else:
            shapes = shapes_of(sample.pred_instances, classes, score_thr, tolerance)
            found.append(Labelled("train", name, sample.ori_shape[::-1], shapes))
        bar.update()
    print(file=sys.stderr)
    return make_splits(found, {"train": folder}, classes)["train"], faults


def shapes_of(
    instances: Any, classes: Sequence[str], score_thr: float, tolerance: float
) -> list[Shape]:
    """What a detector found on a picture.

    Args:
        instances: MMDetection's ``pred_instances``, with boxes (xyxy) and maybe masks in pixels.
        classes: names of the labels.
        score_thr: objects with lower scores are left out.
        tolerance: of polygons, in pixels.
    """
    found, shapes = instances.cpu().numpy(), []
    for index in np.flatnonzero(found.scores >= score_thr):
        polygons = polygons_of_mask(found.masks[index], tolerance) if "masks" in found else []
        x1, y1, x2, y2 = found.bboxes[index].tolist()
        box = None if polygons else [x1, y1, x2 - x1, y2 - y1]
        name, score = classes[int(found.labels[index])], float(found.scores[index])
        shapes.append(Shape(name, polygons, box, score=score))
    return shapes


def polygons_of_mask(mask: NDArray, tolerance: float) -> list[list[float]]:
    """Polygons of a mask's parts: x1, y1, x2, y2, ... in pixels, at most so far from its outline.

    Parts that are no polygon at this tolerance keep their whole outline.
    """
    polygons = []
    for outline in outlines(mask):
        points = outline.astype(np.float32).reshape(-1, 1, 2)
        fewer = cv2.approxPolyDP(points, tolerance, closed=True)
        chosen = fewer if len(fewer) > 2 and cv2.contourArea(fewer) > 0 else points
        polygons.append(chosen.ravel().tolist())
    return polygons
