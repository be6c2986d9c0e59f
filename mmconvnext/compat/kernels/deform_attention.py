"""Multi-scale deformable attention on CUDA; on the CPU mmcv itself takes the path used here."""

import torch
from torch import Tensor

from mmconvnext.compat.kernels.torchvision_ops import widened


def _attend(value, value_spatial_shapes, sampling_locations, attention_weights) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(
        value, value_spatial_shapes, sampling_locations, attention_weights
    )


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
    output = _attend(
        widened(value),
        value_spatial_shapes,
        widened(sampling_locations),
        widened(attention_weights),
    )
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add the gradients of values, locations and weights to their buffers."""
    inputs = [
        widened(t.detach()).requires_grad_() for t in (value, sampling_locations, attention_weights)
    ]
    with torch.enable_grad():
        output = _attend(inputs[0], value_spatial_shapes, inputs[1], inputs[2])
    grads = torch.autograd.grad(output, inputs, grad_output.to(output.dtype))
    for buffer, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        buffer += grad
