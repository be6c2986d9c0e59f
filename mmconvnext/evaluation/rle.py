"""Masks as run-length codes: pycocotools' bytes in less time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmconvnext.crops import Crop


def encode_masks(masks: NDArray) -> list[dict[str, Any]]:
    """Encode masks as MMDetection's ``encode_mask_results`` does, to the byte.

    A run ends where a pixel differs from the one above: found by comparing whole rows, as they lie
    in memory, where pycocotools copies by columns and visits each pixel. Noise would be slower.

    Args:
        masks: (N, H, W), bool; those of another type are left to MMDetection.

    Returns:
        For each mask ``size``, [H, W], and ``counts``, bytes.
    """
    if masks.dtype != np.bool_ or not masks.size:
        from mmdet.structures.mask import encode_mask_results

        return encode_mask_results(masks)
    from pycocotools import mask as coco_mask  # which the runtime lacks; it is faster

    height, width = masks.shape[1:]
    codes = ({"size": [height, width], "counts": _runs(mask)} for mask in masks)
    return [coco_mask.frPyObjects(code, height, width) for code in codes]


def encode_crop(mask: Crop, width: int, height: int) -> dict[str, Any]:
    """Encode a mask of a picture from its crop alone, as :func:`encode_masks` does the whole."""
    strip = np.zeros((height, mask.bitmap.shape[1]), dtype=bool)
    strip[mask.top : mask.top + len(mask.bitmap)] = mask.bitmap
    counts = _runs(strip).tolist() if strip.size else [0]
    counts[0] += mask.left * height
    rest = width * height - sum(counts)
    if len(counts) % 2:  # it ends with zeros
        counts[-1] += rest
    elif rest:
        counts.append(rest)
    return {"size": [height, width], "counts": _text(np.array(counts))}


def _text(counts: NDArray) -> bytes:
    """Lengths of runs as COCO's compressed text: pycocotools' ``rleToString``, all runs at once.

    From the fourth on a run is given by its difference from the one before the last; five bits of
    a number go into each letter, the lowest first, and a sixth says that more follow.
    """
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    letters, used, more = [], [], np.ones(len(rest), dtype=bool)
    while more.any():
        low = rest & 31
        rest >>= 5
        used.append(more)
        more = more & (rest != np.where(low & 16, -1, 0))  # the highest bit is the sign
        letters.append(low + 48 + 32 * more)
    return np.array(letters, np.uint8).T[np.array(used).T].tobytes()


def _runs(mask: NDArray) -> NDArray:
    """Lengths of runs down the columns, of zeros (maybe none) and ones alternately."""
    height, width = mask.shape
    rows, columns = np.divmod(np.flatnonzero(mask[1:] != mask[:-1]), width)
    # a column continues the run that the one before it ended with, at the bottom
    onward = np.flatnonzero(mask[0, 1:] != mask[-1, :-1]) + 1
    first = np.zeros(int(mask[0, 0]), dtype=int)
    starts = np.concatenate([columns * height + rows + 1, onward * height, first])
    starts.sort()
    return np.diff(starts, prepend=0, append=height * width)
