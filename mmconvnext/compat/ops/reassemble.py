"""CARAFE upsampling, and convolution at the places of a mask, in plain torch.

Shapes: ``features`` (n, c, h, w); of CARAFE, ``masks`` (n, groups * k * k, h * s, w * s) and
``output`` (n, c, h * s, w * s). The tensors whose names begin with r belong to mmcv's own way to
compute it; of them ``rfeatures`` is given to the backward operator and is filled.
"""

from functools import partial

from torch import Tensor
from torch.nn import functional

from mmconvnext.compat.ops.torchvision_ops import add_gradients, widened


def _reassemble(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    """Sum the neighbours of each output's source with its mask ("CARAFE", arXiv 1905.02188)."""
    n, c, h, w = features.shape
    neighbours = functional.unfold(features, kernel, padding=kernel // 2)
    neighbours = neighbours.view(n, groups, c // groups, kernel**2, h, 1, w, 1)
    weights = masks.view(n, groups, 1, kernel**2, h, scale, w, scale)
    return (neighbours * weights).sum(3).reshape(n, c, h * scale, w * scale)


def carafe_forward(
    features, masks, rfeatures, routput, rmasks, output, *, kernel_size, group_size, scale_factor
) -> None:
    """Write the upsampled features into ``output``."""
    rfeatures.copy_(features)
    inputs = widened(features), widened(masks)
    output.copy_(_reassemble(*inputs, kernel_size, group_size, scale_factor))


def carafe_backward(
    grad_output, rfeatures, masks, *buffers, kernel_size, group_size, scale_factor
) -> None:
    """Add the gradients of features and masks to the last two of ``buffers``."""
    reassemble = partial(_reassemble, kernel=kernel_size, groups=group_size, scale=scale_factor)
    add_gradients(reassemble, (rfeatures, masks), grad_output, buffers[-2:])


def masked_im2col_forward(
    features, rows, columns, output, *, kernel_h, kernel_w, pad_h, pad_w
) -> None:
    """Write the neighbourhoods (c * kh * kw, places) of the places of a mask into ``output``."""
    width = features.shape[-1] + 2 * pad_w - kernel_w + 1
    unfolded = functional.unfold(features, (kernel_h, kernel_w), padding=(pad_h, pad_w))
    output.copy_(unfolded[0, :, rows * width + columns])


def masked_col2im_forward(columns, rows, places, output, *, height, width, channels) -> None:
    """Write values (channels, places) to the places of a mask in ``output`` (1, c, h, w)."""
    output[0, :, rows, places] = columns
