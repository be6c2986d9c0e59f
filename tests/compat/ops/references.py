"""mmcv's operators once more, step by step in plain Python: what its C++ and CUDA sources do."""

import math

import numpy as np


def overlap(box, other, offset: int = 0, mode: str = "iou"):
    """Intersection over union of two boxes, or (``iof``) over the first one's area."""
    zero = box.dtype.type(0)
    width = max(zero, min(box[2], other[2]) - max(box[0], other[0]) + offset)
    height = max(zero, min(box[3], other[3]) - max(box[1], other[1]) + offset)
    shared = width * height
    area = (box[2] - box[0] + offset) * (box[3] - box[1] + offset)
    if mode == "iou":
        area = area + (other[2] - other[0] + offset) * (other[3] - other[1] + offset) - shared
    with np.errstate(invalid="ignore", divide="ignore"):
        return shared / area


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, offset: int = 0) -> list[int]:
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        box, limit = boxes[index], np.float32(threshold)
        if not any(overlap(boxes[k], box, offset) > limit for k in kept):
            kept.append(int(index))
    return kept


def nms_match(dets: np.ndarray, threshold: float) -> list[list[int]]:
    groups = []
    for index in np.argsort(-dets[:, 4], kind="stable"):
        for group in groups:
            if overlap(dets[group[0], :4], dets[index, :4]) >= np.float32(threshold):
                group.append(int(index))
                break
        else:
            groups.append([int(index)])
    return groups


def soft_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    offset: int = 0,
) -> tuple[np.ndarray, list[int]]:
    """mmcv's loop with its swaps, which decide about equal scores."""
    boxes, scores, order = list(boxes), list(scores), list(range(len(boxes)))
    count, place = len(boxes), 0

    def move(start: int, end: int) -> None:
        boxes[end], scores[end], order[end] = boxes[start], scores[start], order[start]

    def swap(a: int, b: int) -> None:
        for column in (boxes, scores, order):
            column[a], column[b] = column[b], column[a]

    while place < count:
        best = place
        for other in range(place + 1, count):
            if scores[best] < scores[other]:
                best = other
        swap(place, best)
        other = place + 1
        while other < count:
            iou = overlap(boxes[place], boxes[other], offset)
            scores[other] *= decay(iou, np.float32(threshold), np.float32(sigma), method)
            if scores[other] < np.float32(min_score):
                count -= 1
                move(count, other)
            else:
                other += 1
        place += 1
    dets = [[*boxes[i], scores[i]] for i in range(count)]
    return np.array(dets, np.float32).reshape(count, 5), order[:count]


def decay(iou, threshold, sigma, method: str):
    if method == "gaussian":
        return np.exp(-(iou * iou) / sigma)
    if iou >= threshold:
        return np.float32(0) if method == "naive" else 1 - iou
    return np.float32(1)


def bilinear(plane: np.ndarray, y: float, x: float) -> np.ndarray:
    """Value of (c, h, w) between its cells; everything outside is zero."""
    top, left = math.floor(y), math.floor(x)
    value = np.zeros(len(plane))
    for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < plane.shape[1] and 0 <= column < plane.shape[2]:
                value += weight_y * weight_x * plane[:, row, column]
    return value


def roi_pool(
    features: np.ndarray, rois: np.ndarray, size: tuple[int, int], scale: float
) -> np.ndarray:
    """Maximum of each bin; the last row and column of pixels of a region belong to it."""
    output = np.zeros((len(rois), features.shape[1], *size))
    for index, roi in enumerate(rois):
        x1, y1 = roi[1:3] * scale
        x2, y2 = (roi[3:] + 1) * scale
        if x2 <= x1 or y2 <= y1:
            continue
        for row, column in np.ndindex(*size):
            rows = cells(y1, y2, row, size[0], features.shape[2])
            columns = cells(x1, x2, column, size[1], features.shape[3])
            region = features[int(roi[0])][:, rows, columns]
            if region.size:
                output[index, :, row, column] = region.max((1, 2))
    return output


def cells(low: float, high: float, index: int, count: int, limit: int) -> slice:
    size = (high - low) / count
    start, stop = math.floor(index * size + low), math.ceil((index + 1) * size + low)
    return slice(min(max(start, 0), limit), min(max(stop, 0), limit))


def deform_conv(
    x: np.ndarray,
    offset: np.ndarray,
    weight: np.ndarray,
    mask: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    deform_groups: int,
) -> np.ndarray:
    channels, (filters, per_group, kernel_h, kernel_w) = x.shape[1], weight.shape
    height, width = offset.shape[2:]
    output = np.zeros((len(x), filters, height, width))
    for image, row, column in np.ndindex(len(x), height, width):
        sampled = np.zeros((channels, kernel_h, kernel_w))
        for part, i, j in np.ndindex(deform_groups, kernel_h, kernel_w):
            own = slice(part * channels // deform_groups, (part + 1) * channels // deform_groups)
            position = (part * kernel_h + i) * kernel_w + j
            dy, dx = offset[image, 2 * position : 2 * position + 2, row, column]
            y = row * stride[0] - padding[0] + i * dilation[0] + dy
            x_ = column * stride[1] - padding[1] + j * dilation[1] + dx
            factor = 1 if mask is None else mask[image, position, row, column]
            sampled[own, i, j] = bilinear(x[image, own], y, x_) * factor
        for f in range(filters):
            first = f // (filters // groups) * per_group
            value = (sampled[first : first + per_group] * weight[f]).sum()
            output[image, f, row, column] = value + (0 if bias is None else bias[f])
    return output


def deform_attention(
    value: np.ndarray, shapes: list[tuple[int, int]], locations: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    images, _, heads, width = value.shape
    queries, _, levels, points = locations.shape[1:5]
    output = np.zeros((images, queries, heads, width))
    starts = np.cumsum([0] + [h * w for h, w in shapes])
    for n, q, m, level, p in np.ndindex(images, queries, heads, levels, points):
        (h, w), start = shapes[level], starts[level]
        plane = value[n, start : start + h * w, m].T.reshape(width, h, w)
        x, y = locations[n, q, m, level, p]
        output[n, q, m] += weights[n, q, m, level, p] * bilinear(plane, y * h - 0.5, x * w - 0.5)
    return output.reshape(images, queries, heads * width)
