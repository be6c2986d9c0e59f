"""Masks as polygons, those of a whole image in one array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import mmcv
import numpy as np
import pycocotools.mask as mask_utils
import torch
from mmdet.structures.bbox import BaseBoxes, HorizontalBoxes, get_box_type
from mmdet.structures.mask import PolygonMasks
from numpy.typing import ArrayLike, NDArray

from mmconvnext.data.clipping import bounds_inside, cut_outside

NOTHING = np.zeros((3, 2))  # the polygon of an object that has none


class Outlines(list):
    """For each object its polygons, to read: the lists are copies, the arrays refuse assignment.

    Neither may anybody take it for bitmaps.
    """

    def _refuse(self, *_args: Any, **_kwargs: Any) -> None:
        raise TypeError(
            "these masks are polygons, no array: a transform that computes with bitmaps, such as "
            "CopyPaste or RandomErasing, needs LoadAnnotations in place of FastLoadAnnotations"
        )

    __array__ = __setitem__ = _refuse


class FlatPolygons(PolygonMasks):
    """MMDetection's ``PolygonMasks``, with the vertices of all objects of an image in one array.

    A flip, a resize or a crop is one operation on that array. A crop only shifts it, and keeps for
    each object the window that crops have left of it, which moves along with the object. What is
    outside of the window is cut off when the shapes themselves are asked for. There the outline
    follows the border, from where it leaves the window to where it comes back, which adds no area;
    shapely, which ``PolygonMasks`` asks, would take it apart. Coordinates are kept as float64, also
    those given as integers, which ``PolygonMasks`` truncates at every step.

    Args:
        masks: for each object its polygons, each of shape (2 * vertices,): x1, y1, x2, y2, ... in
            pixels. Those of less than three vertices have no area and are left out.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """

    def __init__(self, masks: Sequence[Sequence[ArrayLike]], height: int, width: int):
        objects = [_with_area(mask) or [NOTHING] for mask in masks]
        polygons = [polygon for polygons in objects for polygon in polygons]
        self.height, self.width = height, width
        self._points = np.concatenate(polygons) if polygons else np.empty((0, 2))
        self._polygon_starts = _starts([len(polygon) for polygon in polygons])
        self._object_starts = _starts([len(polygons) for polygons in objects])
        # of each object the low and the high corner of what crops have left to see
        self._windows = np.tile([[-np.inf] * 2, [np.inf] * 2], (len(objects), 1, 1))

    @property
    def masks(self) -> Outlines:
        """For each object its polygons, as ``PolygonMasks`` has them: cut off after a crop."""
        windows = np.repeat(self._windows, np.diff(self._object_starts), axis=0)
        points, starts = cut_outside(self._points, self._polygon_starts, windows)
        flat = points.reshape(-1)
        flat.flags.writeable = False  # it may be a view of these masks' own vertices
        polygons = [flat[2 * first : 2 * last] for first, last in pairwise(starts.tolist())]
        objects = pairwise(self._object_starts.tolist())
        return Outlines(polygons[first:last] for first, last in objects)

    def __getitem__(self, index: Any) -> FlatPolygons:
        """The objects at an index, a slice, or a list or array of indices or truth values."""
        return self._select(np.atleast_1d(np.arange(len(self))[index]))

    def __len__(self) -> int:
        return len(self._object_starts) - 1

    def __repr__(self) -> str:
        size = f"height={self.height}, width={self.width}"
        return f"{type(self).__name__}(num_masks={len(self)}, {size})"

    def rescale(self, scale: float | tuple[int, int], interpolation: Any = None) -> FlatPolygons:
        """See ``BaseInstanceMasks.rescale``."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width))

    def resize(self, out_shape: tuple[int, int], interpolation: Any = None) -> FlatPolygons:
        """See ``BaseInstanceMasks.resize``."""
        height, width = out_shape
        factors = np.array([width / self.width, height / self.height])
        return self._moved(lambda at: at * factors, height, width)

    def flip(self, flip_direction: str = "horizontal") -> FlatPolygons:
        """See ``BaseInstanceMasks.flip``.

        Raises:
            ValueError: the direction is unknown.
        """
        if flip_direction not in ("horizontal", "vertical", "diagonal"):
            raise ValueError(
                f"flip_direction={flip_direction!r} must be horizontal, vertical or diagonal"
            )
        flips = np.array([flip_direction != "vertical", flip_direction != "horizontal"])
        signs, shift = np.where(flips, -1, 1), np.where(flips, (self.width, self.height), 0)
        flipped = self._moved(lambda at: at * signs + shift, self.height, self.width)
        flipped._windows.sort(axis=1)  # low and high have changed places
        return flipped

    def crop(self, bbox: NDArray) -> FlatPolygons:
        """See ``BaseInstanceMasks.crop``."""
        x1, x2 = np.clip(bbox[0::2], 0, self.width)
        y1, y2 = np.clip(bbox[1::2], 0, self.height)
        cropped = self._moved(lambda at: at - (x1, y1), max(y2 - y1, 1), max(x2 - x1, 1))
        cropped._windows = np.clip(cropped._windows, 0, (x2 - x1, y2 - y1))
        return cropped

    def crop_and_resize(
        self,
        bboxes: NDArray,
        out_shape: tuple[int, int],
        inds: NDArray,
        device: str | torch.device = "cpu",
        interpolation: str = "bilinear",
        binarize: bool = True,
    ) -> FlatPolygons:
        """See ``BaseInstanceMasks.crop_and_resize``: the mask targets of the proposals.

        Raises:
            ValueError: ``binarize`` is False; polygons have no fractional values.
        """
        if not binarize:
            raise ValueError("binarize=False (soft_mask_target) needs bitmaps; these are polygons")
        height, width = out_shape
        if not len(self):
            return self._moved(lambda at: at, height, width)
        chosen = self._select(np.asarray(inds))
        sizes = np.maximum(bboxes[:, 2:] - bboxes[:, :2], 1)
        factors = np.array([width, height], dtype=sizes.dtype) / sizes
        chosen._windows = (chosen._windows - bboxes[:, None, :2]) * factors[:, None]
        # how many vertices each box has
        counts = np.diff(chosen._polygon_starts[chosen._object_starts])
        points = chosen._points - np.repeat(bboxes[:, :2], counts, axis=0)
        chosen._points = points * np.repeat(factors, counts, axis=0)
        chosen.height, chosen.width = height, width
        return chosen

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> FlatPolygons:
        """See ``BaseInstanceMasks.pad``: what was cut off does not come back."""
        return self._moved(lambda at: at, *out_shape)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> FlatPolygons:
        """See ``BaseInstanceMasks.expand``; ``PolygonMasks`` has none."""
        return self._moved(lambda at: at + (left, top), expanded_h, expanded_w)

    def translate(
        self,
        out_shape: tuple[int, int],
        offset: float,
        direction: str = "horizontal",
        border_value: int | None = None,
        interpolation: Any = None,
    ) -> FlatPolygons:
        """See ``BaseInstanceMasks.translate``: cut off in this direction, as ``PolygonMasks``.

        Raises:
            ValueError: the direction is unknown, or ``border_value`` is neither None nor 0.
        """
        if direction not in ("horizontal", "vertical") or border_value not in (None, 0):
            raise ValueError(
                f"direction={direction!r} must be horizontal or vertical, and "
                f"border_value={border_value!r} None or 0: polygons have no border to fill"
            )
        axis = int(direction == "vertical")
        shift = offset * np.eye(2)[axis]
        moved = self._moved(lambda at: at + shift, *out_shape)
        moved._windows[..., axis] = np.clip(moved._windows[..., axis], 0, out_shape[1 - axis])
        return moved

    @classmethod
    def cat(cls, masks: Sequence[PolygonMasks]) -> FlatPolygons:
        """See ``BaseInstanceMasks.cat``: all objects, in an image of the first one's size.

        Raises:
            ValueError: ``masks`` is empty.
            TypeError: some of them are no polygons.
        """
        if not masks:
            raise ValueError("masks is empty, cat needs those of one image or more")
        for each in masks:
            if not isinstance(each, PolygonMasks):
                raise TypeError(
                    f"cannot join {type(each).__name__} and polygons: FastLoadAnnotations loads an "
                    "image as bitmaps where an object is given as run lengths (RLE); to mix images "
                    "of such a data set, as CachedMosaic and CachedMixUp do, take LoadAnnotations"
                )
        parts = [
            each if isinstance(each, cls) else cls(each.masks, each.height, each.width)
            for each in masks
        ]
        return parts[0]._with(
            _points=np.concatenate([part._points for part in parts]),
            _windows=np.concatenate([part._windows for part in parts]),
            _polygon_starts=_joined([part._polygon_starts for part in parts]),
            _object_starts=_joined([part._object_starts for part in parts]),
        )

    def to_ndarray(self) -> NDArray:
        """The bitmaps: bool, of shape (objects, height, width)."""
        bitmaps = np.zeros((len(self), self.height, self.width), dtype=bool)
        for bitmap, polygons in zip(bitmaps, self.masks, strict=True):
            runs = mask_utils.frPyObjects(polygons, self.height, self.width)
            bitmap[:] = mask_utils.decode(runs[0] if len(runs) == 1 else mask_utils.merge(runs))
        return bitmaps

    def get_bboxes(self, dst_type: str | type[BaseBoxes] = "hbox") -> BaseBoxes:
        """See ``BaseInstanceMasks.get_bboxes``: the boxes around what is inside of the image."""
        kind = get_box_type(dst_type)[1]
        if not issubclass(kind, HorizontalBoxes) or not len(self):
            return kind.from_instance_masks(self)
        if np.isfinite(self._windows).any():
            low, high = bounds_inside(
                self._points, self._polygon_starts, self._object_starts, self._windows
            )
        else:
            starts = self._polygon_starts[self._object_starts[:-1]]
            low = np.minimum.reduceat(self._points, starts)
            high = np.maximum.reduceat(self._points, starts)
        return HorizontalBoxes(np.concatenate([low, high], axis=1).astype(np.float32))

    def _moved(self, move: Callable[[NDArray], NDArray], height: int, width: int) -> FlatPolygons:
        """The same objects elsewhere; ``move`` takes and gives coordinates of shape (..., 2)."""
        points, windows = move(self._points), move(self._windows)
        return self._with(_points=points, _windows=windows, height=height, width=width)

    def _select(self, objects: NDArray) -> FlatPolygons:
        """Some objects, in this order; one may come several times."""
        polygons, object_starts = _gather(self._object_starts, objects)
        points, polygon_starts = _gather(self._polygon_starts, polygons)
        return self._with(
            _points=self._points[points],
            _windows=self._windows[objects],
            _polygon_starts=polygon_starts,
            _object_starts=object_starts,
        )

    def _with(self, **attributes: Any) -> FlatPolygons:
        """A copy with other attributes; it shares the arrays that are not given."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self), **attributes)
        return other


def _with_area(mask: Sequence[ArrayLike]) -> list[NDArray]:
    """The polygons of an object that have three vertices or more, each of shape (vertices, 2)."""
    polygons = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in mask]
    return [polygon for polygon in polygons if len(polygon) >= 3]


def _starts(counts: Sequence[int] | NDArray) -> NDArray:
    """Where each group begins in an array of them all, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _joined(starts: Sequence[NDArray]) -> NDArray:
    """Where each group begins once the arrays of several masks follow one another."""
    return _starts(np.concatenate([np.diff(each) for each in starts]))


def _gather(starts: NDArray, groups: NDArray) -> tuple[NDArray, NDArray]:
    """The indices of some groups' members, and where each of these groups begins among them."""
    counts = np.diff(starts)[groups]
    new_starts = _starts(counts)
    shifts = np.repeat(starts[groups] - new_starts[:-1], counts)
    return np.arange(new_starts[-1]) + shifts, new_starts
