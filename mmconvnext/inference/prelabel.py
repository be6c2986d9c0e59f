"""Predictions as annotations to correct: a detector's answers on pictures, with polygons."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from mmconvnext.data.formats.common import Labelled, Shape, Split, make_splits
from mmconvnext.data.masks import outlines
from mmconvnext.inference.detector import Detector
from mmconvnext.inference.inputs import find_inputs, frames
from mmconvnext.inference.prediction import Prediction


def predict(
    detector: Detector, folder: Path, score_thr: float, tolerance: float
) -> tuple[Split, list[str]]:
    """Predict on every picture of a folder, and of those in it.

    Args:
        detector: any.
        folder: of pictures.
        score_thr: objects with lower scores are left out.
        tolerance: how far a polygon may be from its mask's outline, in pixels.

    Returns:
        The pictures with what was predicted, as a COCO file with scores; and a line for each
        picture that could not be used.

    Raises:
        DataError: there are no pictures.
    """
    inputs, faults = find_inputs([str(folder)]), []
    console = Console(stderr=True)
    pictures = track(frames(inputs, faults), "predicting", len(inputs), console=console)
    found = [
        Labelled("train", each.frame.name, each.size, shapes_of(each.above(score_thr), tolerance))
        for each in detector.predict(pictures, faults)
    ]
    return make_splits(found, {"train": folder}, detector.classes)["train"], faults


def shapes_of(prediction: Prediction, tolerance: float) -> list[Shape]:
    """What a detector found on a picture; polygons are to a tolerance in pixels."""
    shapes = []
    for index, name in enumerate(prediction.names):
        polygons = []
        crop = prediction.crops[index] if prediction.crops is not None else None
        if crop is not None and crop.bitmap.size:
            polygons = polygons_of_mask(crop.bitmap, tolerance, (crop.left, crop.top))
        x1, y1, x2, y2 = prediction.boxes[index].tolist()
        box = None if polygons else [x1, y1, x2 - x1, y2 - y1]
        shapes.append(Shape(name, polygons, box, score=float(prediction.scores[index])))
    return shapes


def polygons_of_mask(
    mask: NDArray, tolerance: float, corner: tuple[int, int] = (0, 0)
) -> list[list[float]]:
    """Polygons of a mask's parts: x1, y1, x2, y2, ... in pixels, at most so far from its outline.

    Parts that are no polygon at this tolerance keep their whole outline; ``corner`` is where the
    mask lies in the picture.
    """
    polygons = []
    for outline in outlines(mask):
        points = outline.astype(np.float32).reshape(-1, 1, 2) + np.float32(corner)
        fewer = cv2.approxPolyDP(points, tolerance, closed=True)
        chosen = fewer if len(fewer) > 2 and cv2.contourArea(fewer) > 0 else points
        polygons.append(chosen.ravel().tolist())
    return polygons
