"""RoIAlign on the CPU as matrix products.

torchvision's kernel for the CPU takes every sample of every channel by itself, on one thread. But
a bilinear sample is a product of two linear ones, and so is their mean over a bin: pooling a
region is a small matrix along y and one along x, applied to the part of the map under the region,
whose channels lie side by side in channels_last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Longer regions, in multiples of the map, would have more samples than memory is good for.
MAX_MAPS = 4


class Axis(NamedTuple):
    """How regions are pooled along one axis.

    ``weights`` (k, bins, cells of the map) and, for each region, the first cell with a weight and
    the one after the last.
    """

    weights: Tensor
    starts: list[int]
    stops: list[int]


class PoolingMatrices(NamedTuple):
    """The image of each region, and how it is pooled along both axes."""

    images: list[int]
    y: Axis
    x: Axis

    def __iter__(self) -> Iterator[tuple[int, tuple[int, slice, slice], Tensor, Tensor]]:
        """Index, place in the maps (n, h, w, ...), and both matrices, of each region."""
        extents = (self.y.starts, self.y.stops, self.x.starts, self.x.stops)
        rows = zip(self.images, *extents, strict=True)
        for index, (image, top, bottom, left, right) in enumerate(rows):
            if top < bottom and left < right:
                place = image, slice(top, bottom), slice(left, right)
                weights_y = self.y.weights[index, :, top:bottom]
                yield index, place, weights_y, self.x.weights[index, :, left:right]


def pooling_matrices(
    rois: Tensor,
    size: tuple[int, int],
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> PoolingMatrices | None:
    """Compute what pools each region.

    Args:
        rois: (k, 5), image index x1 y1 x2 y2.
        size: cells of the map along y and x.
        bins: along y and x.
        spatial_scale: cells of the map per unit of ``rois``.
        sampling_ratio: samples a bin along each axis; 0 takes one a cell.
        aligned: shift by half a cell.

    Returns:
        None where regions are not on the CPU, not finite or far larger than the map.
    """
    if rois.device.type != "cpu" or not _are_small(rois, size, spatial_scale):
        return None
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    lengths = corners[:, 2:] - corners[:, :2]
    if not aligned:
        lengths = lengths.clamp(min=1)
    x, y = (
        _axis(corners[:, axis], lengths[:, axis], bins[1 - axis], size[1 - axis], sampling_ratio)
        for axis in range(2)
    )
    return PoolingMatrices(rois[:, 0].long().tolist(), y, x)


def _are_small(rois: Tensor, size: tuple[int, int], spatial_scale: float) -> bool:
    lengths = (rois[:, 3:] - rois[:, 1:3]).abs() * spatial_scale
    return bool((lengths <= MAX_MAPS * max(size)).all() and rois.isfinite().all())


def _axis(start: Tensor, length: Tensor, bins: int, cells: int, sampling_ratio: int) -> Axis:
    step = length / bins
    if sampling_ratio > 0:
        counts = torch.full_like(step, sampling_ratio)
    else:
        counts = step.ceil().clamp(min=0)
    most = int(counts.max()) if len(counts) else 0
    index = torch.arange(most, dtype=step.dtype, device=step.device)
    # (k, bins, samples), in the order of operations of mmcv's kernel
    steps = torch.arange(bins, dtype=step.dtype, device=step.device)[:, None] * step[:, None, None]
    within = (index + 0.5) * (step / counts.clamp(min=1))[:, None, None]
    points = start[:, None, None] + steps + within
    valid = (index < counts[:, None, None]) & (points >= -1) & (points <= cells)
    points = points.clamp(0, cells - 1)
    low = points.long()
    high = (low + 1).clamp(max=cells - 1)
    upper = points - low
    share = valid / counts.clamp(min=1)[:, None, None]
    weights = step.new_zeros(len(step), bins, cells)
    weights.scatter_add_(2, low, (1 - upper) * share)
    weights.scatter_add_(2, high, upper * share)
    return Axis(weights, *_extent(low, high, valid, cells))


def _extent(low: Tensor, high: Tensor, valid: Tensor, cells: int) -> tuple[list[int], list[int]]:
    if not low.numel():
        return [0] * len(low), [0] * len(low)
    starts = torch.where(valid, low, cells).flatten(1).amin(1)
    stops = torch.where(valid, high + 1, 0).flatten(1).amax(1)
    return starts.tolist(), stops.tolist()


def pool(features: Tensor, matrices: PoolingMatrices, output: Tensor) -> None:
    """Average the samples of each bin of each region.

    Args:
        features: (n, c, h, w); in channels_last nothing is copied.
        matrices: from :func:`pooling_matrices`.
        output: receives (k, c, bins along y, bins along x).
    """
    output.zero_()
    maps = features.permute(0, 2, 3, 1).contiguous()
    for index, place, weights_y, weights_x in matrices:
        part = maps[place]  # (h, w, c)
        along_y = (weights_y @ part.flatten(1)).view(len(weights_y), -1, part.shape[-1])
        output[index] = (weights_x @ along_y).permute(2, 0, 1)


def unpool(grad: Tensor, matrices: PoolingMatrices, grad_features: Tensor) -> None:
    """Add the gradient of :func:`pool` to ``grad_features``.

    Args:
        grad: (k, c, bins along y, bins along x).
        matrices: from :func:`pooling_matrices`.
        grad_features: (n, c, h, w).
    """
    total = torch.zeros_like(grad_features.permute(0, 2, 3, 1), dtype=grad.dtype).contiguous()
    grads = grad.permute(0, 2, 3, 1).contiguous()
    for index, place, weights_y, weights_x in matrices:
        along_x = weights_x.t() @ grads[index]  # (bins along y, w, c)
        total[place].flatten(1).addmm_(weights_y.t(), along_x.flatten(1))
    grad_features += total.permute(0, 3, 1, 2)
