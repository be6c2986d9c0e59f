"""The channel mixer of a ConvNeXt block, LayerNorm to residual sum, in pieces that stay in cache.

The plain composition of torch's layers writes every intermediate result of a whole feature map to
memory: with 4C channels these are far larger than any cache, and on the CPU the system hands out
and clears their pages again and again. Here a piece of the positions at a time goes all the way
through; forward keeps nothing of it, and backward computes it again. For each position, what is
saved is the C values that come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mmconvnext.models import onednn

# Of the 4C channels of a piece, on the CPU: small enough for a shared cache, large enough that
# the matrix products run at full speed.
PIECE_BYTES = 12 * 2**20
MIN_POSITIONS = 1024
# The gradient is multiplied with the layer scale where that is larger, and with this where not.
LEAST_FACTOR = 1e-3


class MixerParameters(NamedTuple):
    """What the mixer learns.

    Shapes: norms (C,), ``weight1`` (4C, C), ``bias1`` (4C,), ``weight2`` (C, 4C), ``bias2`` (C,),
    ``gamma`` (C,) or None.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    gamma: Tensor | None

    def to(self, dtype: torch.dtype) -> MixerParameters:
        """The parameters with those of the linear layers in another type."""
        linear = (tensor.to(dtype) for tensor in self[2:6])
        return MixerParameters(*self[:2], *linear, self.gamma)


def mix(
    x: Tensor, y: Tensor, params: MixerParameters, eps: float, scales: Sequence[float]
) -> Tensor:
    """Return ``x + scale * gamma * linear2(gelu(linear1(layer_norm(y))))``, to be differentiated.

    Only ``y`` is kept for the gradients.

    Args:
        x: the block's input (N, C, H, W), in channels_last if nothing is to be copied.
        y: the output of its depthwise convolution, of the same shape.
        params: the parameters of LayerNorm, both linear layers and layer scale.
        eps: of LayerNorm.
        scales: for each of the N samples, what stochastic depth multiplies the branch with; a
            sample with 0 costs nothing.

    Returns:
        The block's output, of the shape of ``x``.
    """
    # autocast decides here, in which type the linear layers work; within nothing else does
    dtype = compute_dtype(y)
    with torch.autocast(y.device.type, enabled=False):
        return _Mixer.apply(x, y, eps, tuple(scales), dtype, *params)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that autocast asks for where it is on, else that of ``x``; it spares float64."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


class Mixer:
    """The forward pass, to be applied to many pieces of the positions; not differentiable.

    Args:
        params: see :class:`MixerParameters`; those of the linear layers in the type to compute in.
        eps: of LayerNorm.
        num_rows: the size of most pieces.
    """

    def __init__(self, params: MixerParameters, eps: float, num_rows: int):
        self._params, self._eps = params, eps
        self._linear1 = onednn.linear(params.weight1, params.bias1, num_rows, gelu=True)
        self._linear2 = onednn.linear(params.weight2, params.bias2, num_rows)

    def __call__(self, x: Tensor, y: Tensor, scale: float, out: Tensor) -> None:
        """Compute the output of a piece: ``x``, ``y`` and ``out`` are of shape (rows, C)."""
        normed = _normalised(y, self._params, self._eps)[0]
        branch = self._linear2(self._linear1(normed))
        if self._params.gamma is None:
            torch.add(x, branch, alpha=scale, out=out)
        else:
            torch.addcmul(x, branch, self._params.gamma, value=scale, out=out)


def _forward(
    x: Tensor, y: Tensor, eps: float, scales: tuple[float, ...], params: MixerParameters
) -> Tensor:
    x_rows, y_rows = rows_of(x), rows_of(y)
    out = torch.empty_like(y_rows, dtype=result_dtype(x, params))
    pieces = _pieces(x, scales, params)
    mixer = Mixer(params, eps, _usual_size(pieces))
    for rows, scale in pieces:
        if scale == 0:
            out[rows] = x_rows[rows]
        else:
            mixer(x_rows[rows], y_rows[rows], scale, out[rows])
    return map_of(out, x)


class _Mixer(torch.autograd.Function):
    """The mixer with a backward pass that computes again what forward did not keep."""

    @staticmethod
    def forward(ctx, x, y, eps, scales, dtype, *params: Tensor | None) -> Tensor:
        ctx.save_for_backward(y, *params)
        ctx.eps, ctx.scales, ctx.dtype, ctx.x_dtype = eps, scales, dtype, x.dtype
        return _forward(x, y, eps, scales, MixerParameters(*params).to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, *saved = ctx.saved_tensors
        params = MixerParameters(*saved).to(ctx.dtype)
        with torch.autocast(y.device.type, enabled=False):
            pieces = _pieces(grad, ctx.scales, params)
            needed = ctx.needs_input_grad[5:]
            gradients = _Gradients(y, params, ctx.eps, needed, _usual_size(pieces))
            grad_rows = rows_of(grad)
            for rows, scale in pieces:
                gradients.add(rows, grad_rows[rows], scale)
            grad_params = gradients.of_parameters(saved)
        return grad.to(ctx.x_dtype), map_of(gradients.y, y), None, None, None, *grad_params


class _Gradients:
    """The gradients of ``y`` and the parameters, gathered piece by piece.

    The parameters' are summed in float32 at least: half precision loses them.
    """

    def __init__(
        self, y: Tensor, params: MixerParameters, eps: float, needed: Sequence[bool], num_rows: int
    ):
        self.params, self.eps, self.needed = params, eps, MixerParameters(*needed)
        self.y_rows = rows_of(y)
        self.y = torch.empty_like(self.y_rows)
        self.wide = torch.promote_types(y.dtype, torch.float32)
        self.linear1 = onednn.linear(params.weight1, params.bias1, num_rows)
        # weight2's is transposed: the matrix product is faster into more rows than columns
        shapes = params._replace(weight2=params.weight2.t())
        self.sums = [None if p is None else p.new_zeros(p.shape, dtype=self.wide) for p in shapes]
        # Multiplied with the layer scale before it is rounded, as layer by layer, the gradient
        # keeps the range of float16; a layer scale next to 0 would take from its own gradient.
        self.factor = params.gamma if params.gamma is None else _away_from_zero(params.gamma)
        self.share = _share(params.gamma, self.factor)
        weight2 = params.weight2
        if self.share is not None:
            weight2 = (self.share[:, None] * weight2).to(weight2.dtype)
        self.back2 = onednn.linear(weight2.t(), None, num_rows)
        self.back1 = onednn.linear(params.weight1.t(), None, num_rows)

    def add(self, rows: slice, grad: Tensor, scale: float) -> None:
        """Add what the positions ``rows`` contribute, given the gradient of their outputs."""
        if scale == 0:
            self.y[rows] = 0
            return
        params, sums, needed = self.params, MixerParameters(*self.sums), self.needed
        grad = self._of_branch(grad, scale)
        y = self.y_rows[rows]
        normed, mean, rstd = _normalised(y, params, self.eps)
        hidden = self.linear1(normed)
        if needed.weight2 or needed.gamma:
            _add_product(sums.weight2, functional.gelu(hidden), grad)
        if needed.bias2 or needed.gamma:
            sums.bias2.add_(grad.sum(0, dtype=self.wide))
        grad_hidden = self.back2(grad)
        torch.ops.aten.gelu_backward(grad_hidden, hidden, grad_input=grad_hidden)
        if needed.weight1:
            _add_product(sums.weight1, grad_hidden, normed)
        if needed.bias1:
            sums.bias1.add_(grad_hidden.sum(0, dtype=self.wide))
        grad_normed = self.back1(grad_hidden)
        self._add_norm(rows, grad_normed, y, mean, rstd)

    def _of_branch(self, grad: Tensor, scale: float) -> Tensor:
        if self.factor is not None:
            grad = grad * (scale * self.factor)
        elif scale != 1:
            grad = grad * scale
        return grad.to(self.params.weight2.dtype)

    def _add_norm(self, rows: slice, grad: Tensor, y: Tensor, mean: Tensor, rstd: Tensor) -> None:
        wide, weight, bias = self.wide, self.params.norm_weight, self.params.norm_bias
        grad_y, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
            grad.to(wide),
            y.to(wide),
            weight.shape,
            mean.to(wide),
            rstd.to(wide),
            weight.to(wide),
            bias.to(wide),
            [True, self.needed.norm_weight, self.needed.norm_bias],
        )
        self.y[rows] = grad_y
        for total, part in zip(self.sums, (grad_weight, grad_bias), strict=False):
            if part is not None:
                total.add_(part)

    def of_parameters(self, originals: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the gradients in the types of the parameters; None for those not needed.

        So far those of the second linear layer are multiplied with ``factor`` in place of the
        layer scale. From them follows the layer scale's own gradient, as that of the branch,
        ``sum(grad * (W h + b))``, is ``W . sum(grad h) + b sum(grad)``.
        """
        sums = MixerParameters(*self.sums)
        # in the layout of the parameter: any other is copied once more when it is accumulated
        sums = sums._replace(weight2=sums.weight2.t().contiguous())
        if self.factor is not None:
            weight, bias = (t.to(self.wide) for t in (self.params.weight2, self.params.bias2))
            of_gamma = torch.linalg.vecdot(weight, sums.weight2) + bias * sums.bias2
            sums = sums._replace(gamma=of_gamma / self.factor)
        if self.share is not None:
            sums.weight2.mul_(self.share[:, None])
            sums.bias2.mul_(self.share)
        return [
            total.to(original.dtype) if needed else None
            for total, original, needed in zip(sums, originals, self.needed, strict=True)
        ]


def _away_from_zero(gamma: Tensor) -> Tensor:
    gamma = gamma.to(torch.promote_types(gamma.dtype, torch.float32))
    return torch.where(gamma.abs() < LEAST_FACTOR, LEAST_FACTOR, gamma)


def _share(gamma: Tensor | None, factor: Tensor | None) -> Tensor | None:
    """The layer scale divided by the factor; None where that is known to be 1."""
    if gamma is None or (gamma.device.type == "cpu" and torch.equal(gamma, factor)):
        return None  # on an accelerator, looking would mean to wait for it
    return gamma / factor


def rows_of(x: Tensor) -> Tensor:
    """The positions of (N, C, H, W) as rows (N * H * W, C); a view of a channels_last map."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def map_of(rows: Tensor, like: Tensor) -> Tensor:
    """Rows as a channels_last map of the shape of ``like``."""
    n, _, h, w = like.shape
    return rows.view(n, h, w, rows.shape[-1]).permute(0, 3, 1, 2)


def _pieces(
    x: Tensor, scales: tuple[float, ...], params: MixerParameters
) -> list[tuple[slice, float]]:
    """Pieces of the positions, each with one scale."""
    pieces = []
    per_sample, start = x.shape[2] * x.shape[3], 0
    limit = piece_limit(params)
    for scale, run in groupby(scales):
        stop = start + per_sample * len([*run])
        step = stop - start if limit is None or scale == 0 else even(stop - start, limit)
        for first in range(start, stop, step):
            pieces.append((slice(first, min(first + step, stop)), scale))
        start = stop
    return pieces


def piece_limit(params: MixerParameters) -> int | None:
    """How many positions a piece may have; None for any number."""
    if params.weight1.device.type != "cpu":  # an accelerator is fastest with all at once
        return None
    row_bytes = params.weight1.shape[0] * params.weight1.element_size()
    return max(PIECE_BYTES // row_bytes, MIN_POSITIONS)


def _usual_size(pieces: list[tuple[slice, float]]) -> int:
    return max((rows.stop - rows.start for rows, scale in pieces if scale), default=1)


def even(total: int, limit: int) -> int:
    """The largest size of equal pieces up to ``limit``."""
    return -(-total // -(-total // limit))


def _normalised(y: Tensor, params: MixerParameters, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    weight, bias = params.norm_weight, params.norm_bias
    if y.device.type != "cpu":  # only the CPU's kernel takes parameters of another type
        y = y.to(weight.dtype)
    normed, mean, rstd = torch.native_layer_norm(y, weight.shape, weight, bias, eps)
    return normed.to(params.weight1.dtype), mean, rstd


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left^T right``, in the type of ``total`` but for the product itself."""
    if left.dtype == total.dtype:
        total.addmm_(left.t(), right)
    else:
        total.add_(left.t() @ right)


def result_dtype(x: Tensor, params: MixerParameters) -> torch.dtype:
    """The type of the sum of a block's input and its branch."""
    branch = params.weight2.dtype
    if params.gamma is not None:
        branch = torch.promote_types(branch, params.gamma.dtype)
    return torch.promote_types(x.dtype, branch)
