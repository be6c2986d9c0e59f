"""oneDNN's kernels for linear layers and depthwise convolutions, called directly on the CPU.

Nothing here is differentiable by itself: :mod:`mmconvnext.models.fused_block` has the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

# Positions correlated in one call: enough that the calls cost little, few enough that float32
# sums stay exact and all fits a cache.
CORRELATED_POSITIONS = 2400


def has_kernels(tensor: Tensor) -> bool:
    """Whether oneDNN's kernels shall be used for this tensor's device and type.

    Not within a ``TorchDispatchMode``, such as torch's FLOP counter: it only knows the ordinary
    operators.
    """
    return (
        tensor.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and tensor.dtype in (torch.float32, torch.bfloat16)
        # without AVX512 its kernels for bfloat16 raise
        and (tensor.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
        and not is_in_torch_dispatch_mode()
    )


def linear(
    weight: Tensor, bias: Tensor | None, num_rows: int, gelu: bool = False
) -> Callable[[Tensor], Tensor]:
    """A linear layer, followed by GELU or not, for many tiles of about ``num_rows`` rows each.

    torch's own uses MKL's kernels in float32, which are slower on some processors. oneDNN's want
    the weight (out, in) in blocks; it is rearranged once for all tiles.

    Returns:
        A function from (rows, in), contiguous, to a new (rows, out).
    """
    after = torch.ops.aten.gelu_ if gelu else lambda x: x
    if not has_kernels(weight):
        return lambda x: after(functional.linear(x, weight, bias))
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    apply = torch.ops.mkldnn._linear_pointwise
    if gelu and weight.dtype == torch.float32:  # slower than a pass of its own in bfloat16
        return lambda x: apply(x, packed, bias, "gelu", [], "none")
    return lambda x: after(apply(x, packed, bias, "none", [], ""))


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int] | None = None
) -> Tensor:
    """A depthwise convolution of a channels_last map (N, C, H, W) with a weight (C, 1, k, k).

    ``padding`` is that of height and width; k // 2 by default, which for odd k keeps the size.
    """
    padding = weight.shape[-1] // 2 if padding is None else padding
    return functional.conv2d(x, weight, bias, padding=padding, groups=len(weight))


def depthwise_conv2d_backward(
    x: Tensor, grad: Tensor, weight: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients of :func:`depthwise_conv2d` with the default padding.

    The weight's is, for each channel, the correlation of the input with the output's gradient: a
    depthwise convolution again, whose kernel is as large as the map. oneDNN computes that several
    times as fast as its own gradient of the weight.

    ``grad`` is that of the output, in channels_last; ``needed`` says whether the gradients of
    input, weight and bias are wanted.

    Returns:
        Those gradients, with oneDNN those of weight and bias in float32; what is there for one that
        is not wanted is to be ignored.
    """
    pad = weight.shape[-1] // 2
    if not has_kernels(x):
        return torch.ops.aten.convolution_backward(
            grad, x, weight, [len(weight)], [1, 1], [pad, pad], [1, 1], False, [0, 0],
            len(weight), [*needed],
        )  # fmt: skip
    for_x, for_weight, for_bias = needed
    return (
        depthwise_conv2d(grad, weight.flip(2, 3), None) if for_x else None,
        _correlation(x, grad, pad) if for_weight else None,
        grad.sum((0, 2, 3), dtype=torch.float32) if for_bias else None,
    )


def _correlation(x: Tensor, grad: Tensor, pad: int) -> Tensor:
    """Correlate input and gradient, some rows at a time: (C, 1, k, k) in float32."""
    channels, height, width = x.shape[1:]
    total = x.new_zeros(channels, 1, 2 * pad + 1, 2 * pad + 1, dtype=torch.float32)
    rows = max(CORRELATED_POSITIONS // width, 1)
    for sample, kernel in zip(x.unsqueeze(1), grad.unsqueeze(2), strict=True):
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            above, below = max(pad - top, 0), max(bottom + pad - height, 0)
            tile = sample[:, :, top - pad + above : bottom + pad - below]
            if above or below:  # at the upper and lower edge
                tile = functional.pad(tile, (0, 0, above, below))
            rows_of_grad = kernel[:, :, top:bottom]
            part = functional.conv2d(tile, rows_of_grad, padding=(0, pad), groups=channels)
            total += part.transpose(0, 1)
    return total
