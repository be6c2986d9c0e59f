"""Pictures of a test: the ground truth beside the predictions, and many of them on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.structures.bbox import BaseBoxes
from mmdet.structures.mask import BaseInstanceMasks
from mmdet.visualization import DetLocalVisualizer
from mmdet.visualization.palette import get_palette
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mmconvnext.crops import cropped
from mmconvnext.evaluation.drawing import Objects, draw_objects


@VISUALIZERS.register_module()
class ComparisonVisualizer(DetLocalVisualizer):
    """``DetLocalVisualizer`` of MMDetection with panels to look at.

    Small images are enlarged to whole multiples. Each panel has a title, each object the colour of
    its class and a label that can be read, predictions with their score. Crowds, which the
    evaluation ignores, are striped.
    """

    def add_datasample(self, name: str, image: NDArray, data_sample: Any = None, **kwargs: Any):
        """See ``DetLocalVisualizer.add_datasample``; ``image`` is RGB, (height, width, 3)."""
        there = () if data_sample is None else data_sample.keys()
        self._crowds = data_sample.ignored_instances if "ignored_instances" in there else None
        self._threshold = kwargs.get("pred_score_thr", 0.3)
        for part in ("gt", "pred"):
            wanted = kwargs.get(f"draw_{part}", True)
            kwargs[f"draw_{part}"] = wanted and f"{part}_instances" in there
        super().add_datasample(name, image, data_sample, **kwargs)

    def _draw_instances(
        self, image: NDArray, instances: InstanceData, classes: Any, palette: Any
    ) -> NDArray:
        predicted = "scores" in instances
        title = f"prediction, score over {self._threshold:g}" if predicted else "ground truth"
        labels = instances.labels.tolist()
        objects = Objects(
            _boxes(instances),
            [classes[label] if classes is not None else f"class {label}" for label in labels],
            [get_palette(palette, max(labels) + 1)[label] for label in labels],
            [cropped(mask) for mask in _masks(instances)],
            instances.scores.tolist() if predicted else None,
        )
        crowds = None if predicted else self._crowds
        crowds = None if crowds is None else (_boxes(crowds), map(cropped, _masks(crowds)))
        return draw_objects(image, objects, title, crowds)


def contact_sheet(pictures: Sequence[Path], columns: int = 2, width: int = 960) -> Image.Image:
    """Put the pictures of some files on one sheet, each as wide as given, in pixels."""
    images = [Image.open(path) for path in pictures]
    height = max(round(width * image.height / image.width) for image in images)
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for i, image in enumerate(images):
        place = (i % columns * width, i // columns * height)
        sheet.paste(ImageOps.contain(image, (width, height)), place)
    return sheet


def _boxes(instances: InstanceData) -> NDArray:
    """Boxes in pixels, of shape (objects, 4)."""
    boxes = instances.bboxes
    return (boxes.tensor if isinstance(boxes, BaseBoxes) else boxes).numpy()


def _masks(instances: InstanceData) -> NDArray:
    """Masks (n, height, width); none where there are boxes alone."""
    masks = instances.get("masks", ())
    return np.asarray(masks.to_ndarray() if isinstance(masks, BaseInstanceMasks) else masks)
