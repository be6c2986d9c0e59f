"""What loads and packs the images and objects of a data set, in less time than MMDetection's."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from numpy.typing import NDArray

from mmconvnext.data.polygons import FlatPolygons
from mmconvnext.errors import ConfigError

# What OpenCV 4 and 5 take; CopyPaste of MMDetection, for one, makes images of int64.
OPENCV_TYPES = (np.uint8, np.int8, np.uint16, np.int16, np.int32, np.float32, np.float64)


@TRANSFORMS.register_module()
class FastLoadAnnotations(LoadAnnotations):
    """``LoadAnnotations`` of MMDetection that keeps polygons as polygons.

    With ``poly2mask=True`` MMDetection draws each object at the image's full size before anything
    is augmented; with ``poly2mask=False`` it ignores objects that are given as run lengths (RLE)
    without a word. Here an image with such an object takes bitmaps, as MMDetection's would. Crowds,
    which are run lengths as a rule and ignored in training, become polygons of whole pixels.

    What computes with bitmaps, as ``CopyPaste`` and ``RandomErasing``, needs ``LoadAnnotations``.

    Args:
        **kwargs: of ``LoadAnnotations``, without ``poly2mask``.

    Raises:
        ConfigError: ``poly2mask`` is given.
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
        ignored = results["gt_ignore_flags"]
        if any(
            not (is_ignored or isinstance(mask, list))
            for mask, is_ignored in zip(masks, ignored, strict=True)
        ):
            bitmaps = [self._poly2mask(mask, height, width) for mask in masks]
            results["gt_masks"] = BitmapMasks(bitmaps, height, width)
            return
        polygons = [
            mask if isinstance(mask, list) else rectangles(self._poly2mask(mask, height, width))
            for mask in masks
        ]
        results["gt_masks"] = FlatPolygons(polygons, height, width)


@TRANSFORMS.register_module()
class FastRandomFlip(RandomFlip):
    """``RandomFlip`` of MMDetection whose flipped image lies in memory in the order of its pixels.

    MMCV's flipped image is a view with negative strides, which whatever comes next (resizing,
    packing) copies pixel by pixel, in many times what ``cv2.flip`` takes.
    """

    def _flip(self, results: dict) -> None:
        super()._flip(results)
        results["img"] = in_order(results["img"])


@TRANSFORMS.register_module()
class FastPackDetInputs(PackDetInputs):
    """``PackDetInputs`` of MMDetection that takes an image apart into its channels by OpenCV.

    torch's ``permute(...).contiguous()`` takes several times as long for the same tensor.
    """

    def transform(self, results: dict) -> dict:
        """Pack an image and its objects.

        Args:
            results: of the pipeline; ``img`` is of shape (height, width, channels).

        Returns:
            ``inputs``, of shape (channels, height, width), and ``data_samples``.
        """
        packed = super().transform({k: v for k, v in results.items() if k != "img"})
        if "img" in results:
            packed = {"inputs": channels_first(results["img"]), **packed}
        return packed


def rectangles(bitmap: NDArray) -> NDArray:
    """Cut a mask into rectangles, one for each run of pixels in a column.

    Args:
        bitmap: of shape (height, width), uint8: 1 inside, else 0.

    Returns:
        Their corners x1, y1, x2, y2, ... in pixels, of shape (rectangles, 8).
    """
    height, width = bitmap.shape
    columns = np.zeros((width, height + 2), bitmap.dtype)  # a run ends where its column does
    columns[:, 1:-1] = bitmap.T
    flat = columns.ravel()
    begin, end = np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2).T
    x, top = np.divmod(begin, height + 2)
    bottom = top + end - begin
    return np.stack([x, top, x + 1, top, x + 1, bottom, x, bottom], axis=1)


def in_order(image: NDArray) -> NDArray:
    """The same image, contiguous in memory: itself where it is, else a copy.

    Args:
        image: of shape (height, width) or (height, width, channels); a view by slices of another
            one, flipped or cropped.
    """
    down, right = image.strides[0] < 0, image.strides[1] < 0
    if image.dtype in OPENCV_TYPES and (down or right):
        forward = image[:: -1 if down else 1, :: -1 if right else 1]
        # OpenCV's code: 0 upside down, 1 left to right, -1 both; it drops an axis of one channel
        return cv2.flip(forward, -1 if down and right else int(right)).reshape(image.shape)
    return np.ascontiguousarray(image)


def channels_first(image: NDArray) -> torch.Tensor:
    """Copy an image into a tensor.

    Args:
        image: of shape (height, width) or (height, width, channels).

    Returns:
        Of shape (channels, height, width), contiguous.
    """
    image = in_order(image if image.ndim == 3 else image[..., None])
    planes = np.empty((image.shape[2], *image.shape[:2]), dtype=image.dtype)
    if image.dtype in OPENCV_TYPES:
        cv2.split(image, list(planes))
    else:
        planes[:] = image.transpose(2, 0, 1)
    return torch.from_numpy(planes)
