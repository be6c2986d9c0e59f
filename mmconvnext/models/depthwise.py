"""Depthwise convolution with a backward pass that is not slow on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mmconvnext.models import onednn
from mmconvnext.models.mixer import compute_dtype

# Positions that are summed in one go: enough that the calls cost little, few enough that float32
# sums stay exact and all fits a cache.
STRIP_POSITIONS = 2400


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A depthwise convolution of odd kernel size that keeps the size of the map.

    The weight's gradient is, for each channel, the correlation of the input with the output's
    gradient: a depthwise convolution again, whose kernel is as large as the map. oneDNN computes
    that several times as fast as its own gradient of the weight.

    Args:
        x: (N, C, H, W), in channels_last.
        weight: (C, 1, k, k).
        bias: (C,) or None.

    Returns:
        (N, C, H, W), in the type that autocast asks for.
    """
    x = x.to(compute_dtype(x))
    with torch.autocast(x.device.type, enabled=False):
        if onednn.takes(x):
            return _DepthwiseConv2d.apply(x, weight.to(x.dtype), _to(bias, x.dtype))
        return _conv2d(x, weight.to(x.dtype), _to(bias, x.dtype))


def _to(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(dtype)


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padding = weight.shape[-1] // 2
    return convolve(x, weight, bias, (padding, padding))


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """Compute a depthwise convolution by torch, with a padding above and below, left and right."""
    return functional.conv2d(x, weight, bias, padding=padding, groups=len(weight))


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _conv2d(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = _conv2d(grad, weight.flip(2, 3), None) if for_x else None
        grad_weight = _weight_gradient(x, grad, weight.shape[-1]) if for_weight else None
        grad_bias = grad.sum((0, 2, 3), dtype=torch.float32) if for_bias else None
        return (
            grad_x,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            _to(grad_bias, weight.dtype),
        )


def _weight_gradient(x: Tensor, grad: Tensor, kernel_size: int) -> Tensor:
    """Correlate input (N, C, H, W) and gradient, strip by strip: (C, 1, k, k) in float32."""
    channels, height, width = x.shape[1:]
    pad = kernel_size // 2
    total = x.new_zeros(channels, 1, kernel_size, kernel_size, dtype=torch.float32)
    rows = max(STRIP_POSITIONS // width, 1)
    for index in range(len(x)):
        sample, kernel = x[index : index + 1], grad[index].unsqueeze(1)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            over, under = max(pad - top, 0), max(bottom + pad - height, 0)
            strip = sample[:, :, top - pad + over : bottom + pad - under]
            if over or under:  # at the upper and lower edge
                strip = functional.pad(strip, (0, 0, over, under))
            part = functional.conv2d(
                strip, kernel[:, :, top:bottom], padding=(0, pad), groups=channels
            )
            total += part.transpose(0, 1)
    return total
