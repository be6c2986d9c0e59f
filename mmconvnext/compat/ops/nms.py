"""Non-maximum suppression and box overlaps.

Boxes are (n, 4), x1 y1 x2 y2, and scores (n,); with ``offset`` 1 a box of corners 0 and 9 is 10
wide, with 0 it is 9.
"""

import numpy as np
import torch
from torch import Tensor

from mmconvnext.compat.ops.torchvision_ops import kernels, widened

__all__ = ["bbox_overlaps", "nms", "nms_match", "softnms"]

SOFT_NMS_METHODS = {0: "naive", 1: "linear", 2: "gaussian"}


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices, best first, of boxes that no better one overlaps by more than that."""
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    boxes = boxes.to(dtype)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in float32: 0.6 must not lie below an overlap of float32(0.6)
    return kernels().nms(boxes, scores.to(dtype), float(np.float32(iou_threshold)))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap better ones, and drop those that become faint.

    Follows mmcv's loop step by step (also in which of two equal scores comes first), with the
    inner one vectorised, on the CPU. ``method`` is 0 naive or 1 linear, which act from
    ``iou_threshold`` on, or 2 gaussian, ``sigma`` wide; boxes whose lowered score is below
    ``min_score`` are dropped. ``dets`` (n, 5) receives boxes and lowered scores in its first rows.

    Returns:
        Indices of the boxes kept, in the order of ``dets``.
    """
    real = np.float64 if boxes.dtype == torch.float64 else np.float32
    x1, y1, x2, y2 = boxes.detach().to("cpu", torch.float64).numpy().astype(real).T
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    # one column a box: x1, y1, x2, y2, score, area
    table = np.stack([x1, y1, x2, y2, scores.detach().double().numpy().astype(real), areas])
    order = np.arange(table.shape[1])
    count, place = table.shape[1], 0
    while place < count:
        best = place + _best(table[4, place:count])
        table[:, [place, best]] = table[:, [best, place]]
        order[[place, best]] = order[[best, place]]
        rest = table[:, place + 1 : count]
        overlaps = _overlaps(table[:, place], rest, offset)
        rest[4] *= _decay(overlaps, real(iou_threshold), real(sigma), method)
        count = _drop_faint(table, order, place + 1, count, real(min_score))
        place += 1
    dets[:count] = torch.from_numpy(table[:5, :count].T.copy()).to(dets.dtype)
    return torch.from_numpy(order[:count].copy())


def _best(scores: np.ndarray) -> int:
    """Return the place of the highest score, the first of equals.

    A box without area leaves NaN as the gaussian method's score of its equals. C compares from the
    first score on, and no comparison with NaN is true: NaN is the best where it comes first, and
    never elsewhere.
    """
    best = int(scores.argmax())
    if np.isnan(scores[best]):
        best = 0 if np.isnan(scores[0]) else int(np.nanargmax(scores))
    return best


def _overlaps(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """Return the intersection over union of one column of the table with others."""
    width = np.minimum(box[2], others[2]) - np.maximum(box[0], others[0]) + offset
    height = np.minimum(box[3], others[3]) - np.maximum(box[1], others[1]) + offset
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return shared / (box[5] + others[5] - shared)


def _decay(overlaps: np.ndarray, threshold, sigma, method: int) -> np.ndarray:
    """Return the factors that the scores of overlapping boxes are multiplied by."""
    if method == 2:
        # exp in double precision, rounded once, is what C's expf returns
        return np.exp((-(overlaps * overlaps) / sigma).astype(np.float64)).astype(overlaps.dtype)
    if method not in SOFT_NMS_METHODS:
        raise ValueError(f"method of soft-NMS is {method}; choose from {SOFT_NMS_METHODS}")
    lowered = np.zeros_like(overlaps) if method == 0 else 1 - overlaps
    return np.where(overlaps >= threshold, lowered, np.ones_like(overlaps))


def _drop_faint(table: np.ndarray, order: np.ndarray, start: int, count: int, min_score) -> int:
    """Remove boxes below ``min_score`` from ``start`` on, filling each hole from the end.

    Returns:
        The number of boxes left.
    """
    alive = ~(table[4, start:count] < min_score)
    kept = int(np.count_nonzero(alive))
    if start + kept == count:
        return count
    holes = start + np.flatnonzero(~alive[:kept])
    fillers = start + kept + np.flatnonzero(alive[kept:])[::-1]
    table[:, holes] = table[:, fillers]
    order[holes] = order[fillers]
    return start + kept


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group every box that non-maximum suppression removes with the box that removed it.

    Args:
        dets: (n, 5), x1 y1 x2 y2 score.
        iou_threshold: boxes are grouped from it on.

    Returns:
        Groups of indices, best group first, best box first in each.
    """
    boxes = dets.detach().to("cpu", torch.float32)
    remaining = boxes[:, 4].sort(descending=True, stable=True).indices
    threshold = float(np.float32(iou_threshold))
    groups = []
    while len(remaining):
        best, rest = remaining[:1], remaining[1:]
        matched = _pairwise(boxes[best, :4], boxes[rest, :4])[0] >= threshold
        groups.append([int(best), *rest[matched].tolist()])
        remaining = rest[~matched]
    return groups


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Write the overlaps of (m, 4) with (n, 4) boxes into ``ious``.

    That is (m, n), or (m,) with ``aligned``: box by box. ``mode`` 0 divides by the union, 1 by the
    area of ``bboxes1``.
    """
    # in half precision the area of a box of 256 x 256 is infinite
    ious.copy_(_pairwise(widened(bboxes1), widened(bboxes2), mode, aligned, offset))


def _pairwise(
    first: Tensor, second: Tensor, mode: int = 0, aligned: bool = False, offset: int = 0
) -> Tensor:
    """Return the overlaps of (m, 4) with (n, 4) boxes; arguments as in ``bbox_overlaps``."""
    if not aligned:
        first = first[:, None]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low + offset).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if mode == 0:
        area = area + (second[..., 2:] - second[..., :2] + offset).prod(-1) - shared
    return shared / area
