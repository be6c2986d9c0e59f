"""Non-maximum suppression and box overlaps.

Boxes are (n, 4), x1 y1 x2 y2, and scores (n,); with ``offset`` 1 a box of corners 0 and 9 is 10
wide, with 0 it is 9.
"""

import numpy as np
import torch
from torch import Tensor

from mmconvnext.compat.ops.torchvision_ops import kernels, widened


def nms(boxes, scores, iou_threshold, offset) -> Tensor:
    """Return the indices, best first, of boxes that no better one overlaps by more than that."""
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    boxes = boxes.to(dtype)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in float32: 0.6 must not lie below an overlap of float32(0.6)
    return kernels().nms(boxes, scores.to(dtype), float(np.float32(iou_threshold)))


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset) -> Tensor:
    """Lower the scores of boxes that overlap better ones, and drop those that become faint.

    Follows mmcv's loop step by step (also in which of two equal scores comes first), with the
    inner one vectorised, on the CPU. ``method`` is 0 naive or 1 linear, which act from
    ``iou_threshold`` on, or 2 gaussian, ``sigma`` wide; boxes whose lowered score is below
    ``min_score`` are dropped. ``dets`` (n, 5) receives boxes and lowered scores in its first rows.
    Returns the indices of the boxes kept, in this order.
    """
    real = np.float64 if boxes.dtype == torch.float64 else np.float32
    x1, y1, x2, y2 = boxes.detach().to("cpu", torch.float64).numpy().astype(real).T
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    scores = scores.detach().double().numpy().astype(real)
    # one column a box
    table = np.stack([x1, y1, x2, y2, scores, areas, np.arange(len(scores), dtype=real)])
    count, place = len(scores), 0
    while place < count:
        best = place + _best(table[4, place:count])
        table[:, [place, best]] = table[:, [best, place]]
        rest = table[:, place + 1 : count]
        overlaps = _overlaps(table[:, place], rest, offset)
        rest[4] *= _decay(overlaps, real(iou_threshold), real(sigma), method)
        place += 1
        count = place + _drop_faint(rest, real(min_score))
    dets[:count] = torch.from_numpy(table[:5, :count].T.copy()).to(dets.dtype)
    return torch.from_numpy(table[6, :count].astype(np.int64))


def _best(scores: np.ndarray) -> int:
    """Return the place of the highest score, the first of equals.

    A box without area leaves NaN as the gaussian method's score of its equals. C compares from the
    first score on, and no comparison with NaN is true: NaN is the best where it comes first, and
    never elsewhere.
    """
    return 0 if np.isnan(scores[0]) else int((scores == np.fmax.reduce(scores)).argmax())


def _overlaps(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """Return the intersection over union of one column of the table with others."""
    sides = np.minimum(box[2:4, None], others[2:4]) - np.maximum(box[:2, None], others[:2]) + offset
    width, height = np.maximum(sides, 0)
    shared = width * height
    with np.errstate(divide="ignore", invalid="ignore"):
        return shared / (box[5] + others[5] - shared)


def _decay(overlaps: np.ndarray, threshold, sigma, method: int) -> np.ndarray:
    """Return the factors that the scores of overlapping boxes are multiplied by."""
    if method == 2:
        # exp in double precision, rounded once, is what C's expf returns
        return np.exp((-(overlaps * overlaps) / sigma).astype(np.float64)).astype(overlaps.dtype)
    return np.where(overlaps >= threshold, 0 if method == 0 else 1 - overlaps, 1)


def _drop_faint(rest: np.ndarray, min_score) -> int:
    """Remove columns below ``min_score``, filling each hole from the end; return how many stay."""
    alive = ~(rest[4] < min_score)
    kept = int(np.count_nonzero(alive))
    holes = np.flatnonzero(~alive[:kept])
    if len(holes):
        rest[:, holes] = rest[:, kept + np.flatnonzero(alive[kept:])[::-1]]
    return kept


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group every box that non-maximum suppression removes with the box that removed it.

    ``dets`` is (n, 5) with scores; boxes are grouped from ``iou_threshold`` on. Returns groups of
    indices, best group first, best box first in each.
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


def bbox_overlaps(bboxes1, bboxes2, ious, mode, aligned, offset) -> None:
    """Write the overlaps of (m, 4) with (n, 4) boxes, (m, n), into ``ious``; if aligned, (m,).

    ``mode`` 0 divides by the union, 1 by the area of ``bboxes1``.
    """
    # in half precision the area of a box of 256 x 256 is infinite
    ious.copy_(_pairwise(widened(bboxes1), widened(bboxes2), mode, aligned, offset))


def _pairwise(first: Tensor, second: Tensor, mode=0, aligned=False, offset=0) -> Tensor:
    if not aligned:
        first = first[:, None]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low + offset).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if mode == 0:
        area = area + (second[..., 2:] - second[..., :2] + offset).prod(-1) - shared
    return shared / area
