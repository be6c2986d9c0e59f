"""Deformable convolution, with and without a mask, and multi-scale deformable attention.

Shapes: ``input`` (n, c, h, w), ``weight`` (out, c / groups, kh, kw), ``offset``
(n, 2 * deformable groups * kh * kw, oh, ow), ``mask`` like it with half its channels, ``output``
(n, out, oh, ow). mmcv and torchvision order the channels of offsets alike: for each deformable
group and each position of the kernel, y before x. ``columns``, ``ones`` and ``im2col_step`` belong
to mmcv's own way to compute it and are not used. Backward operators add to the gradients that they
are given.
"""

from typing import Any

import torch
from torch import Tensor

from mmconvnext.compat.ops.torchvision_ops import kernels, widened

__all__ = [
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
]

# mmcv's names of stride, padding and dilation (y before x) and both kinds of groups.
PLAIN = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
MODULATED = (
    *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
    *("group", "deformable_group"),
)


def _forward(input: Tensor, weight: Tensor, offset: Tensor, settings: dict[str, Any], **more):
    return kernels().deform_conv2d(*_arguments(input, weight, offset, settings, **more))


def _backward(grad: Tensor, input: Tensor, *others: Any, **more) -> tuple[Tensor, ...]:
    """The gradients of input, weight, offset, mask and bias."""
    grad = grad.to(widened(input).dtype)
    return kernels()._deform_conv2d_backward(grad, *_arguments(input, *others, **more))


def _arguments(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    settings: dict[str, Any],
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple:
    """What torchvision's kernels take after the gradient."""
    features = widened(input)
    geometry = [settings[name] for name in (PLAIN if mask is None else MODULATED)]
    tensors = (
        weight,
        offset,
        features.new_zeros(len(features), 0) if mask is None else mask,
        features.new_zeros(len(weight)) if bias is None else bias,
    )
    return features, *(t.to(features.dtype) for t in tensors), *geometry, mask is not None


def deform_conv_forward(input, weight, offset, output, columns, ones, **settings) -> None:
    """Write the deformable convolution of ``input`` into ``output``."""
    output.copy_(_forward(input, weight, offset, settings))


def deform_conv_backward_input(
    input, offset, grad_output, grad_input, grad_offset, weight, columns, **settings
) -> None:
    """Add the gradients of input and offset."""
    grads = _backward(grad_output, input, weight, offset, settings)
    grad_input += grads[0]
    grad_offset += grads[2]


def deform_conv_backward_parameters(
    input, offset, grad_output, grad_weight, columns, ones, *, scale: float, **settings
) -> None:
    """Add ``scale`` times the gradient of the weight."""
    # the kernel wants the weight for gradients that nobody asked for here; its values do not enter
    # into its own gradient
    grad_weight += scale * _backward(grad_output, input, grad_weight, offset, settings)[1]


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, *, with_bias: bool, **settings
) -> None:
    """Write the modulated deformable convolution of ``input`` into ``output``."""
    bias = bias if with_bias else None
    output.copy_(_forward(input, weight, offset, settings, mask=mask, bias=bias))


def modulated_deform_conv_backward(
    input,
    weight,
    bias,
    ones,
    offset,
    mask,
    columns,
    grad_input,
    grad_weight,
    grad_bias,
    grad_offset,
    grad_mask,
    grad_output,
    *,
    with_bias: bool,
    **settings,
) -> None:
    """Add the gradients of input, weight, offset, mask and, if there is one, bias."""
    bias = bias if with_bias else None
    grads = _backward(grad_output, input, weight, offset, settings, mask=mask, bias=bias)
    buffers = [grad_input, grad_weight, grad_offset, grad_mask, *([grad_bias] if with_bias else [])]
    for buffer, grad in zip(buffers, grads, strict=False):
        buffer += grad


def _attend(value, shapes, locations, weights) -> Tensor:
    # mmcv itself takes this way on the CPU
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sum bilinear samples of all levels with the attention's weights.

    Args:
        value: (n, keys, heads, d).
        value_spatial_shapes: (levels, 2), height and width of each level.
        value_level_start_index: (levels,), implied by the shapes.
        sampling_locations: (n, queries, heads, levels, points, 2), x and y within 0 … 1.
        attention_weights: (n, queries, heads, levels, points).
        im2col_step: of mmcv's own way to compute it.

    Returns:
        (n, queries, heads * d).
    """
    locations, weights = widened(sampling_locations), widened(attention_weights)
    return _attend(widened(value), value_spatial_shapes, locations, weights).to(value.dtype)


def ms_deform_attn_backward(
    value,
    value_spatial_shapes,
    value_level_start_index,
    sampling_locations,
    attention_weights,
    grad_output,
    grad_value,
    grad_sampling_loc,
    grad_attn_weight,
    im2col_step,
) -> None:
    """Add the gradients of values, locations and weights."""
    inputs = [
        widened(t.detach()).requires_grad_() for t in (value, sampling_locations, attention_weights)
    ]
    with torch.enable_grad():
        output = _attend(inputs[0], value_spatial_shapes, inputs[1], inputs[2])
    grads = torch.autograd.grad(output, inputs, grad_output.to(output.dtype))
    for buffer, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        buffer += grad
