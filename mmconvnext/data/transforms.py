"""What loads and packs the images and objects of a data set, in less time than MMDetection's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from numpy.typing import NDArray

from mmconvnext.data.masks import outlines
from mmconvnext.errors import ConfigError

# What OpenCV 4 and 5 take; CopyPaste of MMDetection, for one, makes images of int64.
OPENCV_TYPES = (np.uint8, np.int8, np.uint16, np.int16, np.int32, np.float32, np.float64)
FLIP_CODES = {"vertical": 0, "horizontal": 1, "diagonal": -1}  # of cv2.flip


class Outlines(list):
    """For each object its polygons; nobody may take it for an array of bitmaps."""

    def _refuse(self, *_args: Any, **_kwargs: Any) -> None:
        raise TypeError(
            "these masks are polygons, no array: a transform that computes with bitmaps, such as "
            "CopyPaste or RandomErasing, needs LoadAnnotations in place of FastLoadAnnotations"
        )

    __array__ = __setitem__ = _refuse


def _same_type(name: str) -> Callable[..., FastPolygonMasks]:
    """A method of ``PolygonMasks`` whose result is of the subclass that it is called on."""

    def call(self: FastPolygonMasks, *args: Any, **kwargs: Any) -> FastPolygonMasks:
        masks = getattr(PolygonMasks, name)(self, *args, **kwargs)
        return type(self)(masks.masks, masks.height, masks.width)

    return call


class FastPolygonMasks(PolygonMasks):
    """``PolygonMasks`` of MMDetection that cuts only those objects that a crop's border crosses.

    ``PolygonMasks`` asks shapely about every object, most of the time that masks take in a pipeline
    with crops, and truncates coordinates given as integers at every step; here all are float64.
    Arguments are the same; an object without polygons is one without area.
    """

    def __init__(self, masks: list[list[NDArray]], height: int, width: int):
        polygons = [
            [np.asarray(each, dtype=np.float64) for each in mask] or [np.zeros(6)] for mask in masks
        ]
        super().__init__(polygons, height, width)
        self.masks = Outlines(polygons)

    __getitem__ = _same_type("__getitem__")
    resize = _same_type("resize")
    flip = _same_type("flip")
    pad = _same_type("pad")
    translate = _same_type("translate")

    def crop(self, bbox: NDArray) -> FastPolygonMasks:
        """See ``PolygonMasks.crop``; ``bbox`` is x1, y1, x2, y2 of the window in pixels."""
        window = np.clip(bbox, 0, [self.width, self.height] * 2)
        points = [np.concatenate(mask).reshape(-1, 2) for mask in self.masks]
        inside = [bool(((xy >= window[:2]) & (xy <= window[2:])).all()) for xy in points]
        cut = PolygonMasks.crop(self[~np.array(inside, dtype=bool)], bbox)
        rest = iter(cut.masks)
        masks = [
            _shifted(mask, -window[:2]) if whole else next(rest)
            for mask, whole in zip(self.masks, inside, strict=True)
        ]
        return type(self)(masks, cut.height, cut.width)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> FastPolygonMasks:
        """See ``BitmapMasks.expand``; ``PolygonMasks`` has none."""
        masks = [_shifted(mask, np.array([left, top])) for mask in self.masks]
        return type(self)(masks, expanded_h, expanded_w)


def _shifted(polygons: list[NDArray], shift: NDArray) -> list[NDArray]:
    return [(each.reshape(-1, 2) + shift).reshape(-1) for each in polygons]


@TRANSFORMS.register_module()
class FastLoadAnnotations(LoadAnnotations):
    """``LoadAnnotations`` of MMDetection that keeps polygons as polygons.

    With ``poly2mask=True`` MMDetection draws each object at the image's full size before anything
    is augmented; with ``poly2mask=False`` it silently ignores objects given as run lengths (RLE).
    Here an image with such an object takes bitmaps; crowds, which are ignored in training, become
    the outlines of their pixels. ``CopyPaste`` and ``RandomErasing`` need ``LoadAnnotations``.
    """

    def __init__(self, **kwargs: Any):
        if "poly2mask" in kwargs:
            raise ConfigError(
                f"FastLoadAnnotations has no poly2mask (given: {kwargs['poly2mask']!r}): it takes "
                "polygons wherever it can; leave that out, or take type='LoadAnnotations'"
            )
        super().__init__(**kwargs)

    def _load_masks(self, results: dict) -> None:
        height, width = results["ori_shape"]
        masks = self._process_masks(results)
        for index, ignored in enumerate(results["gt_ignore_flags"]):
            if ignored and not isinstance(masks[index], list):
                bitmap = self._poly2mask(masks[index], height, width)
                masks[index] = outlines(bitmap) or [np.zeros(6)]
        kind = FastPolygonMasks
        if not all(isinstance(mask, list) for mask in masks):
            kind, masks = BitmapMasks, [self._poly2mask(mask, height, width) for mask in masks]
        results["gt_masks"] = kind(masks, height, width)


@TRANSFORMS.register_module()
class FastRandomFlip(RandomFlip):
    """``RandomFlip`` of MMDetection whose flipped image is contiguous in memory.

    MMCV's is a view with negative strides, which what comes next copies pixel by pixel, slowly.
    """

    def _flip(self, results: dict) -> None:
        image = results["img"]
        super()._flip(results)
        if image.dtype in OPENCV_TYPES:
            flipped = cv2.flip(image, FLIP_CODES[results["flip_direction"]])
            results["img"] = flipped.reshape(image.shape)  # OpenCV drops an axis of one channel
        results["img"] = np.ascontiguousarray(results["img"])


@TRANSFORMS.register_module()
class FastPackDetInputs(PackDetInputs):
    """``PackDetInputs`` of MMDetection that splits an image into its channels by OpenCV.

    torch's ``permute(...).contiguous()`` takes several times as long for the same tensor.
    """

    def transform(self, results: dict) -> dict:
        """Pack ``img`` (H, W, channels) as ``inputs`` (channels, H, W), and ``data_samples``."""
        packed = super().transform({k: v for k, v in results.items() if k != "img"})
        if "img" in results:
            packed = {"inputs": channels_first(results["img"]), **packed}
        return packed


def channels_first(image: NDArray) -> torch.Tensor:
    """Copy an image (height, width[, channels]) into a contiguous (channels, height, width)."""
    image = np.ascontiguousarray(image if image.ndim == 3 else image[..., None])
    planes = np.empty((image.shape[2], *image.shape[:2]), dtype=image.dtype)
    if image.dtype in OPENCV_TYPES:
        cv2.split(image, list(planes))
    else:
        planes[:] = image.transpose(2, 0, 1)
    return torch.from_numpy(planes)
