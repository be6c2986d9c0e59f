"""Pooling of regions of interest.

``input`` is (n, c, h, w), ``rois`` (k, 5) with image index, x1, y1, x2 and y2, ``output``
(k, c, bins along y, bins along x); ``spatial_scale`` is cells of the input per unit of ``rois``.
Backward operators add to the gradient that they are given.
"""

import torch
from torch import Tensor

from mmconvnext.compat.ops import roi_align_cpu
from mmconvnext.compat.ops.torchvision_ops import kernels, widened
from mmconvnext.errors import MissingOperatorError

__all__ = [
    "roi_align_backward",
    "roi_align_forward",
    "roi_pool_backward",
    "roi_pool_forward",
]

AVERAGE = 1


def _require_average(pool_mode: int) -> None:
    if pool_mode != AVERAGE:
        raise MissingOperatorError(
            "RoIAlign with pool_mode='max' is not available: torchvision's kernel only averages. "
            "Use pool_mode='avg'."
        )


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the mean of bilinear samples of each bin of each region into ``output``.

    ``argmax_y`` and ``argmax_x`` belong to the maximum mode and are not used; ``aligned_height``
    and ``aligned_width`` are bins along y and x; ``sampling_ratio`` is samples a bin along each
    axis, 0 takes one a cell; ``pool_mode`` must be 1, the average; ``aligned`` shifts by half a
    cell.
    """
    _require_average(pool_mode)
    features, bins = widened(input), (aligned_height, aligned_width)
    rois = rois.to(features.dtype)
    matrices = roi_align_cpu.pooling_matrices(
        rois, features.shape[2:], bins, spatial_scale, sampling_ratio, aligned
    )
    if matrices is not None:
        roi_align_cpu.pool(features, matrices, output)
        return
    output.copy_(kernels().roi_align(features, rois, spatial_scale, *bins, sampling_ratio, aligned))


def roi_align_backward(
    grad_output,
    rois,
    argmax_y,
    argmax_x,
    grad_input,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``."""
    _require_average(pool_mode)
    grad, bins, shape = widened(grad_output), (aligned_height, aligned_width), grad_input.shape
    rois = rois.to(grad.dtype)
    matrices = roi_align_cpu.pooling_matrices(
        rois, shape[2:], bins, spatial_scale, sampling_ratio, aligned
    )
    if matrices is not None:
        roi_align_cpu.unpool(grad, matrices, grad_input)
        return
    grad_input += kernels()._roi_align_backward(
        grad, rois, spatial_scale, *bins, *shape, sampling_ratio, aligned
    )


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the maximum of each bin of each region into ``output``; 0 for an empty bin.

    mmcv does not round a region to whole cells as torchvision's kernel does, so this is plain
    torch. The last row and column of pixels belong to a region. ``argmax`` receives the cell
    (y * w + x) of each maximum; -1 for an empty bin.
    """
    output.zero_()
    argmax.fill_(-1)
    height, width = input.shape[2:]
    rois = widened(rois)
    corners = (rois[:, 1:] + rois.new_tensor([0, 0, 1, 1])) * spatial_scale
    bins_y = _bins(corners[:, 1], corners[:, 3], pooled_height, height)
    bins_x = _bins(corners[:, 0], corners[:, 2], pooled_width, width)
    valid = (corners[:, 2:] > corners[:, :2]).all(1).tolist()
    for index, image in enumerate(rois[:, 0].long().tolist()):
        if valid[index]:
            _pool_region(input[image], bins_y[index], bins_x[index], output[index], argmax[index])


def _bins(low: Tensor, high: Tensor, count: int, limit: int) -> list[list[tuple[int, int]]]:
    """First and last + 1 cell of each of ``count`` bins of each region."""
    edges = torch.arange(count + 1, device=low.device, dtype=low.dtype)
    size = ((high - low) / count)[:, None]
    starts = (edges[:-1] * size + low[:, None]).floor().clamp(0, limit).long().tolist()
    stops = (edges[1:] * size + low[:, None]).ceil().clamp(0, limit).long().tolist()
    return [list(zip(*pair, strict=True)) for pair in zip(starts, stops, strict=True)]


def _pool_region(
    features: Tensor, bins_y: list, bins_x: list, output: Tensor, argmax: Tensor
) -> None:
    """Fill one region's maxima, (c, bins, bins): first along x, then along y."""
    width = features.shape[2]
    for column, (left, right) in enumerate(bins_x):
        if left >= right:
            continue
        values, cells = features[:, :, left:right].max(2)  # (c, h)
        cells = cells + left + width * torch.arange(len(features[0]), device=features.device)
        for row, (top, bottom) in enumerate(bins_y):
            if top < bottom:
                best, at = values[:, top:bottom].max(1)
                output[:, row, column] = best
                argmax[:, row, column] = cells[:, top:bottom].gather(1, at[:, None])[:, 0]


def roi_pool_backward(
    grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale
) -> None:
    """Add the gradient of :func:`roi_pool_forward` to ``grad_input``."""
    channels, height, width = grad_input.shape[1:]
    filled = (argmax >= 0).flatten(2)  # (k, c, bins)
    cells = argmax.long().flatten(2).clamp(min=0)
    planes = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    grads = torch.where(filled, grad_output.flatten(2), 0)
    places = planes[:, :, None] * (height * width) + cells
    grad_input.view(-1).index_add_(0, places.flatten(), grads.flatten())
