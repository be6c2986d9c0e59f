"""A ConvNeXt block computed in tiles that stay in the cache, forward and backward.

Layer by layer, every intermediate result of a whole feature map is written to memory: with 4C
channels these are far larger than any cache, and on the CPU the system hands out and clears their
pages again and again. Here a tile, some rows of the map, goes through all layers at once. For the
backward pass the block's input and the convolution's output are saved, 2C values a position instead
of 11C (more with GRN); the rest is computed again.

GRN needs the norms of a whole sample before its second linear layer can be applied, so the tiles
of one sample wait for each other with their 4C channels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mmconvnext.models.block import grn_scale, grn_scale_backward
from mmconvnext.models.cpu_kernels import depthwise_conv2d, depthwise_conv2d_backward, linear

# Of the 4C channels of a tile, on the CPU: small enough for a shared cache, large enough that the
# matrix products run at full speed.
TILE_BYTES = 12 * 2**20
MIN_POSITIONS = 1024
# Values squared at once for GRN's norms: few calls, and no new pages for the squares.
SQUARED_VALUES = 2**20
# The gradient is multiplied with the layer scale where that is larger, and with this where not.
LEAST_FACTOR = 1e-3


class BlockParameters(NamedTuple):
    """The parameters of a block; its layer scale and those of GRN may be None.

    Shapes: the convolution (C, 1, k, k) and (C,), LayerNorm (C,), the linear layers (4C, C), (4C,),
    (C, 4C) and (C,), layer scale (C,), GRN (1, 1, 1, 4C). In a pruned block 4C is another number.
    """

    conv_weight: Tensor
    conv_bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    gamma: Tensor | None
    grn_gamma: Tensor | None
    grn_beta: Tensor | None

    def to(self, dtype: torch.dtype) -> BlockParameters:
        """The parameters with those of convolution and linear layers in another type."""
        cast = ("conv_weight", "conv_bias", "weight1", "bias1", "weight2", "bias2")
        return self._replace(**{name: getattr(self, name).to(dtype) for name in cast})


class Settings(NamedTuple):
    """What is no tensor in a block's computation."""

    scales: tuple[float, ...]  # of each sample's branch in stochastic depth; 0 costs nothing
    dtype: torch.dtype  # of convolution and linear layers
    norm_eps: float  # of LayerNorm
    grn_eps: float | None  # of GRN; None without it


class Tile(NamedTuple):
    """The rows ``top`` to ``bottom`` (exclusive) of the maps of some samples."""

    samples: slice  # more than one only with all rows
    top: int
    bottom: int
    positions: slice  # among those of all samples


def divide(
    shape: Sequence[int], scales: Sequence[float], limit: int, by_sample: bool
) -> Iterator[tuple[float, list[Tile]]]:
    """Divide maps (N, C, H, W) into tiles of at most ``limit`` positions, but of a row at least.

    All samples in a tile have the same scale. With ``by_sample``, the tiles of a sample belong
    together, and to no other.

    Yields:
        A scale and the tiles that are to be computed together.
    """
    height, width = shape[2:]
    per_tile = 1 if by_sample else max(limit // (height * width), 1)
    rows = _part(height, max(limit // width, 1))
    start = 0
    for scale, run in groupby(scales):
        stop = start + len([*run])
        step = _part(stop - start, per_tile)
        for first in range(start, stop, step):
            samples = slice(first, min(first + step, stop))
            tiles = []
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                begin = (first * height + top) * width
                count = (samples.stop - first) * (bottom - top) * width
                tiles.append(Tile(samples, top, bottom, slice(begin, begin + count)))
            yield from [(scale, tiles)] if by_sample else ((scale, [tile]) for tile in tiles)
        start = stop


def _part(total: int, limit: int) -> int:
    """The largest size of equal parts up to ``limit``."""
    return -(-total // -(-total // limit))


def _groups(
    x: Tensor, params: BlockParameters, settings: Settings
) -> tuple[list[tuple[float, list[Tile]]], int]:
    """The tiles of a block's input, and how many positions the largest has."""
    limit = sys.maxsize  # accelerators are fastest with all at once
    if x.device.type == "cpu":
        row_bytes = params.weight1.shape[0] * params.weight1.element_size()
        limit = max(TILE_BYTES // row_bytes, MIN_POSITIONS)
    by_sample = params.grn_gamma is not None
    groups = list(divide(x.shape, settings.scales, limit, by_sample))
    sizes = (t.positions.stop - t.positions.start for scale, tiles in groups for t in tiles)
    return groups, max(sizes, default=1)


def _rows(x: Tensor) -> Tensor:
    """The positions of (N, C, H, W) as rows (N * H * W, C); a view of a channels_last map."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map(rows: Tensor, like: Tensor) -> Tensor:
    """Rows as a channels_last map of the shape of ``like``."""
    n, _, h, w = like.shape
    return rows.view(n, h, w, rows.shape[-1]).permute(0, 3, 1, 2)


def _convolve(x: Tensor, tile: Tile, params: BlockParameters) -> Tensor:
    """The convolution's output at the positions of a tile, as rows."""
    weight, bias = params.conv_weight, params.conv_bias
    pad = weight.shape[-1] // 2
    low, high = max(tile.top - pad, 0), min(tile.bottom + pad, x.shape[2])
    source = x[tile.samples, :, low:high].to(weight.dtype)
    if (low, high) == (tile.top - pad, tile.bottom + pad):  # away from the map's edges
        return _rows(depthwise_conv2d(source, weight, bias, (0, pad)))
    y = depthwise_conv2d(source, weight, bias)
    return _rows(y[:, :, tile.top - low : tile.bottom - low])


def _normalise(y: Tensor, params: BlockParameters, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of rows, with their means and inverse standard deviations."""
    weight, bias = params.norm_weight, params.norm_bias
    if y.device.type != "cpu":  # only the CPU's kernel has parameters of another type
        y = y.to(weight.dtype)
    normed, mean, rstd = torch.native_layer_norm(y, weight.shape, weight, bias, eps)
    return normed.to(params.weight1.dtype), mean, rstd


def _squares(hidden: Tensor) -> Tensor:
    """The sums of squares over rows, in float32 at least; float16 has not the range for them."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    exact = wide if hidden.dtype == torch.float16 else hidden.dtype
    parts = hidden.split(max(SQUARED_VALUES // hidden.shape[1], 1))
    return sum(part.to(exact).square().sum(0, dtype=wide) for part in parts)


def forward_tiles(
    x: Tensor, y: Tensor | None, params: BlockParameters, settings: Settings
) -> tuple[Tensor, Tensor | None]:
    """Compute a block's output for ``x`` (N, C, H, W), and the norms (N, 4C) of its GRN.

    ``y`` is the convolution's output; None to compute it tile by tile without keeping it. Both are
    in channels_last, and convolution and linear layers in the type to compute in.
    """
    groups, num_rows = _groups(x, params, settings)
    linear1 = linear(params.weight1, params.bias1, num_rows, gelu=True)
    bias2, norms = params.bias2, None
    if params.grn_gamma is not None:
        beta = params.grn_beta.flatten()
        bias2 = (bias2 + params.weight2.to(beta.dtype) @ beta).to(bias2.dtype)
        wide = torch.promote_types(settings.dtype, torch.float32)
        norms = x.new_zeros(len(x), len(params.weight1), dtype=wide)
    linear2 = linear(params.weight2, bias2, num_rows)
    x_rows, y_rows = _rows(x), None if y is None else _rows(y)
    summands = (t for t in (x, params.weight2, params.gamma) if t is not None)
    dtype = reduce(torch.promote_types, (t.dtype for t in summands))
    out = torch.empty_like(x_rows, dtype=dtype)
    for scale, tiles in groups:
        if scale == 0:
            for tile in tiles:
                out[tile.positions] = x_rows[tile.positions]
            continue
        hiddens, factor = [], None
        for tile in tiles:
            rows = _convolve(x, tile, params) if y is None else y_rows[tile.positions]
            hiddens.append(linear1(_normalise(rows, params, settings.norm_eps)[0]))
        if norms is not None:
            norm = norms[tiles[0].samples.start]
            norm.copy_(sum(map(_squares, hiddens)).sqrt_())
            factor = grn_scale(norm, params.grn_gamma.flatten(), settings.grn_eps)
        for tile, hidden in zip(tiles, hiddens, strict=True):
            branch = linear2(hidden if factor is None else hidden.mul_(factor.to(hidden.dtype)))
            source, target = x_rows[tile.positions], out[tile.positions]
            if params.gamma is None:
                torch.add(source, branch, alpha=scale, out=target)
            else:
                torch.addcmul(source, branch, params.gamma, value=scale, out=target)
    return _map(out, x), norms


class TiledBlock(torch.autograd.Function):
    """A block's output, with a backward pass that computes again what forward did not save."""

    @staticmethod
    def forward(ctx, x: Tensor, settings: Settings, *params: Tensor | None) -> Tensor:
        """Compute the output of ``x`` (N, C, H, W), given the fields of BlockParameters."""
        cast = BlockParameters(*params).to(settings.dtype)
        source = x.to(settings.dtype)
        y = depthwise_conv2d(source, cast.conv_weight, cast.conv_bias)
        out, norms = forward_tiles(x, y, cast, settings)
        ctx.save_for_backward(source, y, norms, *params)
        ctx.settings, ctx.x_dtype = settings, x.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the input and of all parameters that want one."""
        x, y, norms, *originals = ctx.saved_tensors
        for_x, _, *needed = ctx.needs_input_grad
        params = BlockParameters(*originals).to(ctx.settings.dtype)
        with torch.autocast(x.device.type, enabled=False):
            groups, num_rows = _groups(x, params, ctx.settings)
            gradients = _Gradients(y, params, ctx.settings, num_rows)
            grad_rows = _rows(grad)
            for scale, tiles in groups:
                norm = None if norms is None else norms[tiles[0].samples.start]
                gradients.add(grad_rows, scale, tiles, norm)
            grad_x, *of_conv = depthwise_conv2d_backward(
                x, _map(gradients.y, y), params.conv_weight, (for_x, *needed[:2])
            )
            grad_x = grad_x.to(ctx.x_dtype).add_(grad) if for_x else None
            sums = (*of_conv, *gradients.of_parameters()[2:])
        grad_params = (
            total.to(original.dtype).view_as(original) if is_needed else None
            for total, original, is_needed in zip(sums, originals, needed, strict=True)
        )
        return grad_x, None, *grad_params


class _Gradients:
    """The gradients of the convolution's output ``y`` and of what follows, gathered tile by tile.

    The parameters' are summed in float32 at least: half precision loses them.
    """

    def __init__(self, y: Tensor, params: BlockParameters, settings: Settings, num_rows: int):
        self.params, self.settings = params, settings
        self.y_rows = _rows(y)
        self.y = torch.empty_like(self.y_rows)
        self.wide = torch.promote_types(y.dtype, torch.float32)
        self.exact = self.wide if y.dtype == torch.float16 else y.dtype  # has the range for factors
        self.linear1 = linear(params.weight1, params.bias1, num_rows)
        # weight2's is transposed: the matrix product is faster into more rows than columns
        shapes = params._replace(weight2=params.weight2.t())
        self.sums = BlockParameters(
            *(None if p is None else p.new_zeros(p.shape, dtype=self.wide) for p in shapes)
        )
        # Multiplied with the layer scale before it is rounded, as layer by layer, the gradient
        # keeps the range of float16; a layer scale next to 0 would take from its own gradient.
        self.weight2, self.factor = params.weight2, 1.0
        if params.gamma is not None:
            gamma = params.gamma.to(torch.promote_types(params.gamma.dtype, torch.float32))
            self.factor = torch.where(gamma.abs() < LEAST_FACTOR, LEAST_FACTOR, gamma)
            self.share = gamma / self.factor
            self.weight2 = (self.share[:, None] * self.weight2).to(self.weight2.dtype)
        self.back2 = linear(self.weight2.t(), None, num_rows)
        self.back1 = linear(params.weight1.t(), None, num_rows)

    def add(self, grad: Tensor, scale: float, tiles: list[Tile], norm: Tensor | None) -> None:
        """Add what tiles that were computed together contribute.

        ``grad`` is the gradient of the block's output, as rows, and ``norm`` (4C,) that of each
        hidden channel of their sample, with GRN.
        """
        if scale == 0:
            for tile in tiles:
                self.y[tile.positions] = 0
            return
        params, sums = self.params, self.sums
        product = sums.weight2 if norm is None else torch.zeros_like(sums.weight2)
        recomputed = []
        for tile in tiles:
            branch = (grad[tile.positions] * (scale * self.factor)).to(params.weight2.dtype)
            y = self.y_rows[tile.positions]
            normed, mean, rstd = _normalise(y, params, self.settings.norm_eps)
            hidden = self.linear1(normed)
            _add_product(product, functional.gelu(hidden), branch)
            sums.bias2.add_(branch.sum(0, dtype=self.wide))
            recomputed.append((branch, hidden, normed, y, mean, rstd))
        through_grn = None if norm is None else self._through_grn(norm, product)
        for tile, (branch, hidden, normed, *of_norm) in zip(tiles, recomputed, strict=True):
            grad_hidden = self.back2(branch)
            if through_grn is not None:
                of_z, of_hidden = (t.to(self.exact) for t in through_grn)
                grad_hidden.mul_(of_z).addcmul_(functional.gelu(hidden), of_hidden)
            torch.ops.aten.gelu_backward(grad_hidden, hidden, grad_input=grad_hidden)
            _add_product(sums.weight1, grad_hidden, normed)
            sums.bias1.add_(grad_hidden.sum(0, dtype=self.wide))
            self.y[tile.positions] = self._of_norm(self.back1(grad_hidden), *of_norm)

    def _through_grn(self, norm: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
        """Differentiate the GRN of a sample.

        With ``z = s * h + beta`` before the second linear layer, the gradient of its weight is
        ``sum(grad h) s + sum(grad) beta``, and that of ``s``, ``sum((W^T grad) h)``, is
        ``W . sum(grad h)``: neither needs a pass of its own over the positions. ``product`` is
        ``sum(grad h)`` (4C, C).

        Returns:
            What the gradient of ``z`` and ``h`` are multiplied with in the gradient of ``h``.
        """
        grn = (norm, self.params.grn_gamma.flatten(), self.settings.grn_eps)
        grad_scale = torch.linalg.vecdot(self.weight2.t().to(self.wide), product)
        grad_gamma, per_hidden = grn_scale_backward(grad_scale, *grn)
        self.sums.grn_gamma.add_(grad_gamma)
        scale = grn_scale(*grn)
        self.sums.weight2.addcmul_(product, scale[:, None])
        return scale, per_hidden

    def _of_norm(self, grad: Tensor, y: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        weight, bias = self.params.norm_weight, self.params.norm_bias
        grad_y, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
            *(grad.to(self.wide), y.to(self.wide), weight.shape),
            *(each.to(self.wide) for each in (mean, rstd, weight, bias)),
            [True, True, True],
        )
        self.sums.norm_weight.add_(grad_weight)
        self.sums.norm_bias.add_(grad_bias)
        return grad_y

    def of_parameters(self) -> BlockParameters:
        """The gradients of all but the convolution.

        So far those of the second linear layer are multiplied with ``factor`` in place of the
        layer scale. From them follows the layer scale's own gradient, as that of the branch,
        ``sum(grad * (W z + b))``, is ``W . sum(grad z) + b sum(grad)``.
        """
        params, sums = self.params, self.sums
        if params.grn_beta is not None:
            sums.weight2.addr_(params.grn_beta.flatten().to(self.wide), sums.bias2)
            sums.grn_beta.add_(sums.bias2 @ self.weight2.to(self.wide))
        # in the layout of the parameter: any other is copied once more when it is accumulated
        sums = sums._replace(weight2=sums.weight2.t().contiguous())
        if params.gamma is not None:
            weight, bias = (t.to(self.wide) for t in (params.weight2, params.bias2))
            of_gamma = torch.linalg.vecdot(weight, sums.weight2) + bias * sums.bias2
            sums = sums._replace(gamma=of_gamma / self.factor)
            sums.weight2.mul_(self.share[:, None])
            sums.bias2.mul_(self.share)
        return sums


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left^T right``, in the type of ``total`` but for the product itself."""
    if left.dtype == total.dtype:
        total.addmm_(left.t(), right)
    else:
        total.add_(left.t() @ right)
