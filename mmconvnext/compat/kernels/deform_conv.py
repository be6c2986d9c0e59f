"""Deformable convolution, with and without a mask.

mmcv and torchvision order the channels of offsets alike: for each deformable group and each
position of the kernel, y before x.
"""

from torch import Tensor

from mmconvnext.compat.kernels.torchvision_ops import kernels, widened


def _forward(input, weight, offset, mask, bias, geometry: tuple[int, ...]) -> Tensor:
    """Run torchvision's kernel.

    Args:
        input: (n, c, h, w).
        weight: (out, c / groups, kh, kw).
        offset: (n, 2 * deformable groups * kh * kw, oh, ow).
        mask: like ``offset`` with half its channels, or None.
        bias: (out,), or None.
        geometry: stride, padding and dilation (y before x), groups, deformable groups.

    Returns:
        (n, out, oh, ow).
    """
    return kernels().deform_conv2d(*_arguments(input, weight, offset, mask, bias), *geometry)


def _backward(grad, input, weight, offset, mask, bias, geometry) -> tuple[Tensor, ...]:
    """Return the gradients of input, weight, offset, mask and bias; arguments as above."""
    arguments = _arguments(input, weight, offset, mask, bias)
    return kernels()._deform_conv2d_backward(grad.to(arguments[0].dtype), *arguments, *geometry)


def _arguments(input, weight, offset, mask, bias) -> tuple[Tensor, ...]:
    features = widened(input)
    if mask is None:
        mask = features.new_zeros(len(features), 0)
    if bias is None:
        bias = features.new_zeros(len(weight))
    return (features, *(t.to(features.dtype) for t in (weight, offset, mask, bias)))


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    kW: int,  # noqa: N803 (mmcv's names)
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the deformable convolution of ``input`` into ``output``.

    ``columns``, ``ones`` and ``im2col_step`` are of mmcv's own way to compute it.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group, False)
    output.copy_(_forward(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    *,
    kW: int,  # noqa: N803
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add the gradients of input and offset to their buffers."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group, False)
    grads = _backward(grad_output, input, weight, offset, None, None, geometry)
    grad_input += grads[0]
    grad_offset += grads[2]


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    kW: int,  # noqa: N803
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient of the weight to its buffer."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group, False)
    # the kernel wants the weight for the gradients that nobody asked for here; its values do not
    # enter into its own gradient
    grads = _backward(grad_output, input, grad_weight, offset, None, None, geometry)
    grad_weight += scale * grads[1]


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the modulated deformable convolution of ``input`` into ``output``."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
    geometry += (group, deformable_group, True)
    output.copy_(_forward(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add the gradients of input, weight, offset, mask and bias to their buffers."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
    geometry += (group, deformable_group, True)
    bias = bias if with_bias else None
    grads = _backward(grad_output, input, weight, offset, mask, bias, geometry)
    buffers = [grad_input, grad_weight, grad_offset, grad_mask]
    buffers += [grad_bias] if with_bias else []
    for buffer, grad in zip(buffers, grads, strict=False):
        buffer += grad
