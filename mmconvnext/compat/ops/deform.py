"""Deformable convolution, with and without a mask, and multi-scale deformable attention.

Shapes: ``input`` (n, c, h, w), ``weight`` (out, c / groups, kh, kw), ``offset``
(n, 2 * deformable groups * kh * kw, oh, ow), ``mask`` like it with half its channels, ``output``
(n, out, oh, ow). mmcv and torchvision order the channels of offsets alike: for each deformable
group and each position of the kernel, y before x. ``columns``, ``ones`` and ``im2col_step`` belong
to mmcv's own way to compute it and are not used. Backward operators add to the gradients that they
are given.

Attention: ``value`` (n, keys, heads, d), ``shapes`` (levels, 2), height and width of each level
(which imply ``starts``), ``locations`` (n, queries, heads, levels, points, 2), x and y within
0 … 1, and ``weights`` like them without the 2.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from mmconvnext.compat.ops.torchvision_ops import add_gradients, kernels, widened

# mmcv's names of stride, padding and dilation (y before x) and both kinds of groups.
_GROUPS = ("group", "deformable_group")
_PLAIN = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", *_GROUPS)
_MODULATED = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", *_GROUPS)


def _arguments(settings: dict, input, weight, offset, mask=None, bias=None) -> tuple:
    """What torchvision's kernels take, after the gradient."""
    features, modulated = widened(input), mask is not None
    mask = mask if modulated else features.new_zeros(len(features), 0)
    bias = features.new_zeros(len(weight)) if bias is None else bias
    others = [t.to(features.dtype) for t in (weight, offset, mask, bias)]
    geometry = [settings[name] for name in (_MODULATED if modulated else _PLAIN)]
    return features, *others, *geometry, modulated


def _backward(grad: Tensor, settings: dict, input: Tensor, *others) -> tuple[Tensor, ...]:
    """The gradients of input, weight, offset, mask and bias."""
    grad = grad.to(widened(input).dtype)
    return kernels()._deform_conv2d_backward(grad, *_arguments(settings, input, *others))


def deform_conv_forward(input, weight, offset, output, columns, ones, **settings) -> None:
    """Write the deformable convolution of ``input`` into ``output``."""
    output.copy_(kernels().deform_conv2d(*_arguments(settings, input, weight, offset)))


def deform_conv_backward_input(
    input, offset, grad_output, grad_input, grad_offset, weight, columns, **settings
) -> None:
    """Add the gradients of input and offset."""
    grads = _backward(grad_output, settings, input, weight, offset)
    grad_input += grads[0]
    grad_offset += grads[2]


def deform_conv_backward_parameters(
    input, offset, grad_output, grad_weight, columns, ones, *, scale, **settings
) -> None:
    """Add ``scale`` times the gradient of the weight."""
    # any weight will do: its values do not enter into its own gradient
    grad_weight += scale * _backward(grad_output, settings, input, grad_weight, offset)[1]


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, *, with_bias, **settings
) -> None:
    """Write the modulated deformable convolution of ``input`` into ``output``."""
    size = output.shape[2:]
    tensors = input, weight, _first(offset, size), _first(mask, size), bias if with_bias else None
    output.copy_(kernels().deform_conv2d(*_arguments(settings, *tensors)))


def modulated_deform_conv_backward(
    input, weight, bias, ones, offset, mask, columns, *gradients, with_bias, **settings
) -> None:
    """Add the gradients of the tensors to ``gradients``, the last of which is the output's."""
    grad_input, grad_weight, grad_bias, grad_offset, grad_mask, grad_output = gradients
    size = grad_output.shape[2:]
    tensors = input, weight, _first(offset, size), _first(mask, size), bias if with_bias else None
    grads = _backward(grad_output, settings, *tensors)
    buffers = [grad_input, grad_weight, grad_offset, grad_mask, *([grad_bias] if with_bias else [])]
    for buffer, grad in zip(buffers, grads, strict=False):
        missing = buffer[0].numel() - grad[0].numel() if grad.ndim == 4 else 0
        buffer += functional.pad(grad.flatten(1), (0, missing)).view_as(buffer) if missing else grad


def _first(map: Tensor, size: torch.Size) -> Tensor:
    """Of a larger map, as DyHead has it, the values that mmcv reads: the first, row by row.

    mmcv takes the output's size for that of the map; trained weights have come to terms with it.
    """
    if map.shape[2:].numel() <= size.numel():
        return map
    return map.flatten(1)[:, : map.shape[1] * size.numel()].view(len(map), -1, *size)


def _attend(shapes, value, locations, weights) -> Tensor:
    # mmcv itself takes this way on the CPU
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


def ms_deform_attn_forward(value, shapes, starts, locations, weights, im2col_step) -> Tensor:
    """Sum bilinear samples of all levels with the weights: (n, queries, heads * d)."""
    return _attend(shapes, *map(widened, (value, locations, weights))).to(value.dtype)


def ms_deform_attn_backward(
    value, shapes, starts, locations, weights, grad_output, *buffers, im2col_step
) -> None:
    """Add the gradients of value, locations and weights to ``buffers``."""
    add_gradients(partial(_attend, shapes), (value, locations, weights), grad_output, buffers)
