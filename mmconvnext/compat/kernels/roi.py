"""Pooling of regions of interest."""

import torch
from torch import Tensor

from mmconvnext.compat import roi_align
from mmconvnext.compat.kernels.torchvision_ops import kernels, widened
from mmconvnext.compat.mmcv_ops import HOW_TO_COMPILE
from mmconvnext.errors import MissingOperatorError

AVERAGE = 1


def _require_average(pool_mode: int) -> None:
    if pool_mode != AVERAGE:
        raise MissingOperatorError(
            "RoIAlign with pool_mode='max' is not available: torchvision's kernel only averages. "
            f"Use pool_mode='avg', or install compiled mmcv: {HOW_TO_COMPILE}."
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
    """Average bilinear samples of each bin of each region into ``output``.

    Args:
        input: (n, c, h, w).
        rois: (k, 5), image index x1 y1 x2 y2.
        output: receives (k, c, aligned_height, aligned_width).
        argmax_y: unused, of the maximum mode.
        argmax_x: unused, of the maximum mode.
        aligned_height: bins along y.
        aligned_width: bins along x.
        spatial_scale: cells of ``input`` per pixel of ``rois``.
        sampling_ratio: samples a bin along each axis; 0 takes one a cell.
        pool_mode: 1, the average.
        aligned: shift by half a cell.
    """
    _require_average(pool_mode)
    features = widened(input)
    rois = rois.to(features.dtype)
    bins = aligned_height, aligned_width
    how = (bins, spatial_scale, sampling_ratio, aligned)
    parts = roi_align.regions(rois, features.shape[2:], *how)
    if parts is not None:
        roi_align.pool(features, parts, output)
        return
    output.copy_(kernels().roi_align(features, rois, spatial_scale, *bins, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of ``roi_align_forward`` to ``grad_input``; arguments as there."""
    _require_average(pool_mode)
    grad = widened(grad_output)
    rois = rois.to(grad.dtype)
    bins = aligned_height, aligned_width
    how = (bins, spatial_scale, sampling_ratio, aligned)
    parts = roi_align.regions(rois, grad_input.shape[2:], *how)
    if parts is not None:
        roi_align.unpool(grad, parts, grad_input)
        return
    shape = grad_input.shape
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
    """Take the maximum of each bin of each region.

    mmcv does not round a region to whole cells as torchvision's kernel does, so this is plain
    torch.

    Args:
        input: (n, c, h, w).
        rois: (k, 5), image index x1 y1 x2 y2; the last row and column of pixels belong to it.
        output: receives (k, c, pooled_height, pooled_width); 0 for an empty bin.
        argmax: receives the cell (y * w + x) of each maximum; -1 for an empty bin.
        pooled_height: bins along y.
        pooled_width: bins along x.
        spatial_scale: cells of ``input`` per pixel of ``rois``.
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
    """Return first and last + 1 cell of each of ``count`` bins of each region."""
    edges = torch.arange(count + 1, device=low.device, dtype=low.dtype)
    size = ((high - low) / count)[:, None]
    starts = (edges[:-1] * size + low[:, None]).floor().clamp(0, limit).long().tolist()
    stops = (edges[1:] * size + low[:, None]).ceil().clamp(0, limit).long().tolist()
    return [list(zip(*pair, strict=True)) for pair in zip(starts, stops, strict=True)]


def _pool_region(features: Tensor, bins_y: list, bins_x: list, output: Tensor, argmax: Tensor):
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
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of ``roi_pool_forward`` to ``grad_input``; arguments as there."""
    channels = grad_input.shape[1]
    filled = (argmax >= 0).flatten(2)  # (k, c, bins)
    cells = argmax.long().flatten(2).clamp(min=0)
    planes = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    grads = torch.where(filled, grad_output.flatten(2), 0)
    flat = grad_input.view(-1)
    area = grad_input.shape[2] * grad_input.shape[3]
    flat.index_add_(0, (planes[:, :, None] * area + cells).flatten(), grads.flatten())
