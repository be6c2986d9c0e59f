"""Pictures resized within a graph to the bit as OpenCV does it, normalised and padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MOST_TILES = 1024  # along a side
BITS = 11  # of the weights of pixels in OpenCV's bilinear interpolation of 8-bit pictures


class Resized:
    """Pictures (B, H, W, 3), uint8, resized as the test pipeline does, and padded.

    The padded size is read from the data, as the number of tiles of ``divisor`` pixels: a size
    that follows from the picture's by rounding is more than exporters can reason about.

    Args:
        pictures: (B, H, W, 3), uint8.
        settings: of the test pipeline's ``Resize`` and, under ``pad``, of its ``Pad``; under
            ``padded`` the padded size, where all pictures have the same.
        divisor: of the padded height and width.

    Attributes:
        pictures: (B, 3, h, w) float, with anything where ``inside`` (h, w) is not.
        size: height and width without the divisor's padding, floats of shape (2,).
        factors: by which the four coordinates of boxes were multiplied.
    """

    def __init__(self, pictures: Tensor, settings: Mapping[str, Any], divisor: int) -> None:
        given = torch.stack(
            [torch.scalar_tensor(side, dtype=torch.float64) for side in pictures.shape[1:3]]
        )
        size = _target(given, settings)
        padded = _padded(size, settings.get("pad"))
        tiles = ((padded + divisor - 1) / divisor).floor().long()
        axes = []
        for axis in (0, 1):
            if "padded" in settings:
                count = settings["padded"][axis] // divisor
            else:
                count = tiles[axis].item()
                torch._check(count >= 1)
                torch._check(count <= MOST_TILES)
            axes.append(_weights(count * divisor, given[axis], size[axis], cut=axis == 1))
        self.size = padded.float()
        self.factors = (size / given).float().flip(0).repeat(2)
        (top, bottom, y), (left, right, x) = axes
        columns = pictures.float()
        columns = columns[:, :, left] * x[0, :, None] + columns[:, :, right] * x[1, :, None]
        columns = (columns / 16).floor()
        rows = _high_bits(columns[:, top], y[0]) + _high_bits(columns[:, bottom], y[1])
        pictures = ((rows + 2) / 4).floor().permute(0, 3, 1, 2)
        self.inside = _within(pictures, padded)
        if "pad" in settings:
            colours = settings["pad"].get("pad_val", {}).get("img", (0, 0, 0))
            colours = pictures.new_tensor([*map(float, colours)][::-1])  # of BGR
            pictures = pictures.where(_within(pictures, size), colours[:, None, None])
        self.pictures = pictures

    def clip(self, boxes: Tensor) -> Tensor:
        """Boxes (n, 4) cut at the pictures' borders."""
        limits = self.size.flip(0).repeat(2)
        return torch.minimum(boxes.clamp(min=0), limits)


def _target(given: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Height and width, whole floats, that MMCV's ``Resize`` makes of others."""
    if settings.get("scale") is None:
        factor = settings.get("scale_factor", 1.0)
        factors = factor if isinstance(factor, Sequence) else (factor, factor)
        return (given * given.new_tensor(factors[::-1]) + 0.5).floor()
    scale = settings["scale"]
    width, height = scale if isinstance(scale, Sequence) else (scale, scale)
    if not settings.get("keep_ratio", False):
        return given.new_tensor([height, width])
    long, short = max(width, height), min(width, height)
    return (given * torch.minimum(long / given.max(), short / given.min()) + 0.5).floor()


def _weights(length: int, given: Tensor, size: Tensor, cut: bool) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel of an axis the two that it is made of, and their weights (2, length).

    With ``cut`` those at the borders are made of one, as OpenCV has it along x.
    """
    # (i + 0.5) given / size - 0.5 of whole numbers, as OpenVINO's CPU has no 64-bit floats
    whole, parts = given.long(), 2 * size.long()
    doubled = (2 * torch.arange(length) + 1) * whole - size.long()
    before = torch.div(doubled, parts, rounding_mode="floor")
    # in the precision that OpenCV has them in
    positions = before.float() + (doubled - before * parts).float() / parts.float()
    low = positions.floor()
    share, last = positions - low, given.float() - 1
    if cut:
        share = share.where((low >= 0) & (low < last), 0.0)
        low = torch.minimum(low.clamp(min=0), last)
    weights = (torch.stack([1 - share, share]) * 2**BITS).round()
    low, high = (torch.minimum(index.clamp(min=0), last).long() for index in (low, low + 1))
    return low, high, weights


def _high_bits(columns: Tensor, weights: Tensor) -> Tensor:
    """Rows (B, h, w, 3) of whole numbers times their weights (h), without the lowest 16 bits.

    Products have up to 27 bits and floats 24: columns are taken as two parts, so that all is exact.
    """
    weights, high = weights[:, None, None], (columns / 128).floor()
    low = ((columns - 128 * high) * weights / 128).floor()
    return ((high * weights + low) / 512).floor()


def _padded(size: Tensor, settings: Mapping[str, Any] | None) -> Tensor:
    """Height and width that MMDetection's ``Pad`` makes of others."""
    if settings is None:
        return size
    if settings.get("pad_to_square", False):
        return size.max().expand(2)
    width, height = settings["size"]
    return torch.maximum(size, size.new_tensor([height, width]))


def _within(pictures: Tensor, size: Tensor) -> Tensor:
    """Where pictures (B, 3, h, w) are within a size: (h, w)."""
    rows, columns = (torch.arange(side) < size[i] for i, side in enumerate(pictures.shape[2:]))
    return rows[:, None] & columns


def normalised(resized: Resized, preprocessor: nn.Module) -> Tensor:
    """Pictures (B, 3, h, w) as the data preprocessor makes them, padded by its value."""
    pictures = resized.pictures
    if not preprocessor._channel_conversion:  # which makes RGB of MMDetection's BGR
        pictures = pictures.flip(1)
    if preprocessor._enable_normalize:
        pictures = (pictures - preprocessor.mean) / preprocessor.std
    return pictures.where(resized.inside, float(preprocessor.pad_value))
