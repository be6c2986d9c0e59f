"""One pipeline of training data at work on images, as in a worker of a data loader."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import mmdet.datasets  # noqa: F401  registers
import numpy as np
import torch
from mmdet.registry import DATASETS
from mmdet.structures.mask import BaseInstanceMasks, PolygonMasks
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from mmengine.utils.dl_utils import set_multi_processing
from numpy.typing import NDArray

DATASETS_FOLDER = Path(__file__).resolve().parents[1] / "configs" / "_base_" / "datasets"
OURS, BITMAPS, POLYGONS, IMAGES = "ours", "bitmaps", "polygons", "images"
# What needs objects, or makes tensors of what is there.
WITHOUT_OBJECTS = ("FastLoadAnnotations", "FilterAnnotations", "FastPackDetInputs")
MOST_CHECKED = 40
SAMPLES = 8  # a side of a pixel, to see how much of it is inside of an outline


class Pipeline:
    """The factory of the comparison of data pipelines, see :class:`benchmarks.Candidate`.

    What is timed is what a worker of a data loader does for each image: reading, decoding,
    augmenting and packing it; torch has one thread there, and OpenCV none. The random numbers are
    those of the image, whatever comes before it.

    Args:
        recipe: which of the configs' data sets.
        kind: ``ours``, as the config has it; ``bitmaps`` and ``polygons``, MMDetection's transforms
            in place of ours with ``poly2mask`` True (its default) and False; ``images``, ours
            without objects and without packing.
        data_root: folder of COCO.
        images: how many of its training split; where it has less, they come again.
    """

    def __init__(self, recipe: str, kind: str, data_root: str, images: int):
        set_multi_processing()  # MMEngine's defaults, ours too: no threads of OpenCV
        config = Config.fromfile(DATASETS_FOLDER / f"{recipe}.py").train_dataloader.dataset
        config.data_root = data_root
        config.pipeline = steps(config.pipeline, kind)
        with DefaultScope.overwrite_default_scope("mmdet"), _quiet():
            self._dataset = DATASETS.build(config)
        self._kind, self._images = kind, images

    def run(self) -> None:
        """Go through all images."""
        for image in range(self._images):
            _seed(image)
            self._dataset[image % len(self._dataset)]

    def check(self) -> dict[str, np.ndarray]:
        """Return what comes out for the first images, those that the pipeline drops left out.

        For each: ``image``, of shape (channels, height, width); ``scale``, how many of its pixels a
        pixel of the file takes; of its objects ``objects``, their numbers among the image's,
        ``boxes`` in pixels, and ``masks``, at the image's size, eight pixels in a byte; the same of
        those ignored in training, under ``ignored objects`` and so on, without masks; and from ours
        ``outlines``, masks of all pixels of which at least half is inside.
        """
        arrays: dict[str, np.ndarray] = {}
        for image in range(min(self._images, MOST_CHECKED)):
            found = self._numbered(image)
            if found is None:
                continue
            sample = found["data_samples"]
            objects = sample.gt_instances
            checked = {
                "image": found["inputs"].numpy(),
                "scale": np.array(sample.scale_factor[0]),
                **_boxes(objects),
                **{f"ignored {k}": v for k, v in _boxes(sample.ignored_instances).items()},
                "masks": np.packbits(objects.masks.to_ndarray().astype(bool), axis=-1),
            }
            if self._kind == OURS:
                checked["outlines"] = np.packbits(outlines(objects.masks), axis=-1)
            arrays |= {f"{key} {image}": value for key, value in checked.items()}
        return arrays

    def facts(self) -> dict[str, float]:
        """Return how many images there are."""
        return {"images": self._images}

    def _numbered(self, image: int) -> dict | None:
        """What the pipeline makes of an image, with the objects' numbers in place of their classes.

        So one knows which object is which, where some are filtered out.
        """
        data = self._dataset.get_data_info(image % len(self._dataset))
        for number, instance in enumerate(data["instances"]):
            instance["bbox_label"] = number
        _seed(image)
        return self._dataset.pipeline(data)


def steps(pipeline: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The transforms of a candidate.

    Args:
        pipeline: of our config.
        kind: see :class:`Pipeline`.
    """
    if kind == OURS:
        return pipeline
    if kind == IMAGES:
        return [step for step in pipeline if step["type"] not in WITHOUT_OBJECTS]
    theirs = [{**step, "type": step["type"].removeprefix("Fast")} for step in pipeline]
    return [
        {**step, "poly2mask": kind == BITMAPS} if step["type"] == "LoadAnnotations" else step
        for step in theirs
    ]


def outlines(masks: BaseInstanceMasks) -> NDArray:
    """Draw each object finely, and take the pixels of which at least half is inside.

    Args:
        masks: of an image.

    Returns:
        Bool, of shape (objects, height, width); bitmaps as they are, for they have no outline.
    """
    if not isinstance(masks, PolygonMasks):
        return masks.to_ndarray().astype(bool)
    drawn = np.zeros((len(masks), masks.height, masks.width), dtype=bool)
    boxes = masks.get_bboxes("hbox").tensor.numpy()
    low, high = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
    windows = np.concatenate([low, np.maximum(high, low + 1)], axis=1).astype(int)
    for number, (x1, y1, x2, y2) in enumerate(windows):
        window = masks[[number]].crop(np.array([x1, y1, x2, y2]))
        height, width = window.height, window.width
        fine = window.resize((height * SAMPLES, width * SAMPLES)).to_ndarray()[0]
        inside = fine.reshape(height, SAMPLES, width, SAMPLES).mean((1, 3)) >= 0.5
        drawn[number, y1:y2, x1:x2] = inside
    return drawn


def _boxes(objects: InstanceData) -> dict[str, np.ndarray]:
    return {"objects": objects.labels.numpy(), "boxes": objects.bboxes.tensor.numpy()}


def _seed(image: int) -> None:
    """Whatever a transform asks for a random number gives the same for all candidates."""
    random.seed(image)
    np.random.seed(image)
    torch.default_generator.manual_seed(image)  # torch.manual_seed formats a traceback for CUDA


def _quiet() -> contextlib.AbstractContextManager:
    return contextlib.redirect_stdout(io.StringIO())
