"""RoIAlign on the CPU as matrix products.

torchvision's kernel for the CPU takes every sample of every channel by itself, on one thread. But
a bilinear sample is a product of two linear ones, and so is their mean over a bin: pooling a
region is a small matrix along y and one along x, applied to the part of the map under the region,
whose channels lie side by side in channels_last.
"""

import torch
from torch import Tensor

# Longer regions, in multiples of the map, would have more samples than memory is good for.
MAX_MAPS = 4
# A region: its index, its place in the maps (n, h, w, c), which is image, rows and columns, and
# its matrices (bins, rows) and (bins, columns).
Region = tuple[int, tuple[int, slice, slice], Tensor, Tensor]


def pooling_matrices(
    rois: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    bins_y: int,
    bins_x: int,
    sampling_ratio: int,
    aligned: bool,
) -> list[Region] | None:
    """Compute what pools each region that overlaps its map.

    ``rois`` is (k, 5), image index x1 y1 x2 y2, ``size`` cells of the map along y and x,
    ``spatial_scale`` cells per unit of ``rois``, ``sampling_ratio`` samples a bin along each axis,
    where 0 takes one a cell; ``aligned`` shifts by half a cell. Returns None where regions are not
    on the CPU, not finite or far larger than the map.
    """
    if rois.device.type != "cpu" or not rois.isfinite().all():
        return None
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    lengths = corners[:, 2:] - corners[:, :2]
    if (lengths.abs() > MAX_MAPS * max(size)).any():
        return None
    if not aligned:
        lengths = lengths.clamp(min=1)
    x = _axis(corners[:, 0], lengths[:, 0], bins_x, size[1], sampling_ratio)
    y = _axis(corners[:, 1], lengths[:, 1], bins_y, size[0], sampling_ratio)
    regions = zip(rois[:, 0].long().tolist(), *y, *x, strict=True)
    return [
        (index, (image, rows, columns), weights_y[:, rows], weights_x[:, columns])
        for index, (image, weights_y, rows, weights_x, columns) in enumerate(regions)
        if rows.start < rows.stop and columns.start < columns.stop
    ]


def _axis(
    start: Tensor, length: Tensor, bins: int, cells: int, sampling_ratio: int
) -> tuple[Tensor, list[slice]]:
    """Weights (k, bins, cells) along one axis, and the cells that have any, of each region."""
    step = length / bins
    counts = step.ceil().clamp(min=0)
    if sampling_ratio > 0:
        counts.fill_(sampling_ratio)
    index = torch.arange(max(counts.tolist(), default=0), dtype=step.dtype)
    counts, step = counts[:, None, None], step[:, None, None]
    # (k, bins, samples), in the order of operations of mmcv's kernel
    steps = torch.arange(bins, dtype=step.dtype)[:, None] * step
    points = start[:, None, None] + steps + (index + 0.5) * (step / counts.clamp(min=1))
    valid = (index < counts) & (points >= -1) & (points <= cells)
    points = points.clamp(0, cells - 1)
    low = points.long()
    upper = points - low
    share = valid / counts.clamp(min=1)
    weights = step.new_zeros(len(step), bins, cells)
    weights.scatter_add_(2, low, (1 - upper) * share)
    weights.scatter_add_(2, (low + 1).clamp(max=cells - 1), upper * share)
    used, places = weights.amax(1) > 0, torch.arange(cells)
    starts = torch.where(used, places, cells).amin(1).tolist()
    stops = torch.where(used, places + 1, 0).amax(1).tolist()
    return weights, list(map(slice, starts, stops))


def pool(features: Tensor, regions: list[Region], output: Tensor) -> None:
    """Average the samples of each bin of each region.

    ``features`` are (n, c, h, w), of which nothing is copied in channels_last; ``output`` receives
    (k, c, bins along y, bins along x).
    """
    output.zero_()
    maps = features.permute(0, 2, 3, 1).contiguous()
    for index, place, weights_y, weights_x in regions:
        part = maps[place]  # (h, w, c)
        along_y = (weights_y @ part.flatten(1)).view(len(weights_y), -1, part.shape[-1])
        output[index] = (weights_x @ along_y).permute(2, 0, 1)


def unpool(grad: Tensor, regions: list[Region], grad_features: Tensor) -> None:
    """Add the gradient of :func:`pool`, (k, c, bins, bins), to ``grad_features`` (n, c, h, w)."""
    total = torch.zeros_like(grad_features.permute(0, 2, 3, 1), dtype=grad.dtype).contiguous()
    grads = grad.permute(0, 2, 3, 1).contiguous()
    for index, place, weights_y, weights_x in regions:
        along_x = weights_x.t() @ grads[index]  # (bins along y, w, c)
        total[place].flatten(1).addmm_(weights_y.t(), along_x.flatten(1))
    grad_features += total.permute(0, 3, 1, 2)
