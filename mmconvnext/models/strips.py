"""A whole ConvNeXt block in strips that stay in cache, where nobody wants gradients.

On the CPU, nothing that is as large as a feature map is written but the output: no result of the
depthwise convolution, and under autocast no copy of the input in another type. Accelerators are
fastest with all positions at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from mmconvnext.models.depthwise import convolve
from mmconvnext.models.mixer import (
    Mixer,
    MixerParameters,
    compute_dtype,
    even,
    map_of,
    piece_limit,
    result_dtype,
    rows_of,
)


class Strip(NamedTuple):
    """Rows of the maps of some samples, the same rows of each.

    Attributes:
        samples: which ones; more than one only with all rows.
        top: the first row.
        bottom: the row after the last one.
        scale: what stochastic depth multiplies their branches with.
    """

    samples: slice
    top: int
    bottom: int
    scale: float


def apply_block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    params: MixerParameters,
    eps: float,
    scales: Sequence[float],
) -> Tensor:
    """Compute a block's output; not differentiable.

    Args:
        x: the input (N, C, H, W), in channels_last if nothing is to be copied.
        weight: of the depthwise convolution (C, 1, k, k), k odd.
        bias: of the depthwise convolution (C,), or None.
        params: of the rest, see :func:`mmconvnext.models.mixer.mix`.
        eps: of LayerNorm.
        scales: for each of the N samples, what stochastic depth multiplies the branch with.

    Returns:
        A new tensor (N, C, H, W), in channels_last.
    """
    dtype = compute_dtype(x)
    params = params.to(dtype)
    weight, bias = (t if t is None else t.to(dtype) for t in (weight, bias))
    height, width = x.shape[2:]
    strips = list(divide(scales, height, width, piece_limit(params)))
    x_rows = rows_of(x)
    out = torch.empty_like(x_rows, dtype=result_dtype(x, params))
    with torch.autocast(x.device.type, enabled=False):
        sizes = (_rows(strip, height, width)[1] for strip in strips if strip.scale)
        mixer = Mixer(params, eps, max(sizes, default=1))
        for strip in strips:
            first, count = _rows(strip, height, width)
            source, target = (each[first : first + count] for each in (x_rows, out))
            if strip.scale == 0:
                target.copy_(source)
                continue
            y = _convolved(x, strip, weight, bias)
            mixer(source, rows_of(y), strip.scale, target)
    return map_of(out, x)


def divide(scales: Sequence[float], height: int, width: int, limit: int | None) -> Iterator[Strip]:
    """Divide maps into strips of at most ``limit`` positions, but of a row at least.

    Args:
        scales: of each sample; what is in a strip has the same.
        height: of the maps.
        width: of the maps.
        limit: None for any number.
    """
    start = 0
    for scale, run in groupby(scales):
        stop = start + len([*run])
        if limit is None or scale == 0:
            yield Strip(slice(start, stop), 0, height, scale)
        elif height * width <= limit:
            step = even(stop - start, limit // (height * width))
            for first in range(start, stop, step):
                yield Strip(slice(first, min(first + step, stop)), 0, height, scale)
        else:
            step = even(height, max(limit // width, 1))
            for sample in range(start, stop):
                for top in range(0, height, step):
                    samples = slice(sample, sample + 1)
                    yield Strip(samples, top, min(top + step, height), scale)
        start = stop


def _rows(strip: Strip, height: int, width: int) -> tuple[int, int]:
    """The first of a strip's positions among all, and their number."""
    samples = strip.samples.stop - strip.samples.start
    first = (strip.samples.start * height + strip.top) * width
    return first, samples * (strip.bottom - strip.top) * width


def _convolved(x: Tensor, strip: Strip, weight: Tensor, bias: Tensor | None) -> Tensor:
    pad = weight.shape[-1] // 2
    low, high = max(strip.top - pad, 0), min(strip.bottom + pad, x.shape[2])
    source = x[strip.samples, :, low:high].to(weight.dtype)
    if (low, high) == (strip.top - pad, strip.bottom + pad):  # away from the map's edges
        return convolve(source, weight, bias, (0, pad))
    y = convolve(source, weight, bias, (pad, pad))
    return y[:, :, strip.top - low : strip.bottom - low]
