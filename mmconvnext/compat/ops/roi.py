"""Pooling of regions of interest.

``input`` is (n, c, h, w), ``rois`` (k, 5) with image index, x1, y1, x2 and y2, ``output``
(k, c, bins along y, bins along x); ``spatial_scale`` is cells of the input per unit of ``rois``.
Backward operators add to the gradient that they are given. RoIAlign's ``argmax_y`` and
``argmax_x`` belong to its maximum mode; its settings are those of ``roi_align_cpu``.
"""

import torch
from torch import Tensor

from mmconvnext.compat.ops import roi_align_cpu
from mmconvnext.compat.ops.torchvision_ops import kernels, widened
from mmconvnext.errors import MissingOperatorError


def _geometry(
    pool_mode, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned
) -> tuple:
    """What torchvision's kernels take after the tensors."""
    if pool_mode != 1:
        raise MissingOperatorError(
            "RoIAlign with pool_mode='max' is not available: torchvision's kernel only averages. "
            "Use pool_mode='avg'."
        )
    return spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned


def roi_align_forward(input, rois, output, argmax_y, argmax_x, **settings) -> None:
    """Write the mean of bilinear samples of each bin of each region into ``output``."""
    features, geometry = widened(input), _geometry(**settings)
    rois = rois.to(features.dtype)
    regions = roi_align_cpu.pooling_matrices(rois, features.shape[2:], *geometry)
    if regions is None:
        output.copy_(kernels().roi_align(features, rois, *geometry))
    else:
        roi_align_cpu.pool(features, regions, output)


def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **settings) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``."""
    grad, shape, geometry = widened(grad_output), grad_input.shape, _geometry(**settings)
    rois = rois.to(grad.dtype)
    regions = roi_align_cpu.pooling_matrices(rois, shape[2:], *geometry)
    if regions is None:
        settings = *geometry[:3], *shape, *geometry[3:]
        grad_input += kernels()._roi_align_backward(grad, rois, *settings)
    else:
        roi_align_cpu.unpool(grad, regions, grad_input)


def roi_pool_forward(
    input, rois, output, argmax, pooled_height, pooled_width, spatial_scale
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
    valid = (corners[:, 2:] > corners[:, :2]).all(1)
    cells = torch.arange(height * width, device=input.device).view(height, width)
    for index in valid.nonzero().flatten().tolist():
        features = input[int(rois[index, 0])]
        for row, rows in enumerate(bins_y[index]):
            for column, columns in enumerate(bins_x[index]):
                values = features[:, rows, columns].flatten(1)
                if values.numel():
                    output[index, :, row, column], best = values.max(1)
                    argmax[index, :, row, column] = cells[rows, columns].flatten()[best]


def _bins(low: Tensor, high: Tensor, count: int, limit: int) -> list[list[slice]]:
    """The cells of each of ``count`` bins of each region."""
    edges = torch.arange(count + 1, device=low.device, dtype=low.dtype)
    size = ((high - low) / count)[:, None]
    starts = (edges[:-1] * size + low[:, None]).floor().clamp(0, limit).long().tolist()
    stops = (edges[1:] * size + low[:, None]).ceil().clamp(0, limit).long().tolist()
    return [list(map(slice, *pair)) for pair in zip(starts, stops, strict=True)]


def roi_pool_backward(
    grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale
) -> None:
    """Add the gradient of :func:`roi_pool_forward` to ``grad_input``."""
    filled = argmax >= 0  # (k, c, bins along y, bins along x)
    regions, channels, *_ = filled.nonzero(as_tuple=True)
    places = rois[regions, 0].long(), channels, argmax[filled].long()
    maps = grad_input.view(*grad_input.shape[:2], -1)
    maps.index_put_(places, grad_output[filled], accumulate=True)
