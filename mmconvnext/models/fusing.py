"""When a block can be computed in pieces, and when that pays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmconvnext.models.mixer import compute_dtype

if TYPE_CHECKING:
    from mmconvnext.models.block import Block

# Of the 4C channels of a block, on the CPU: what is smaller stays in the cache anyway, and is
# computed sooner layer by layer. In training more is kept then; that weighs more than time.
FUSED_FROM_BYTES = 8 * 2**20
TRAINED_FUSED_FROM_BYTES = 2 * 2**20


def can_fuse(block: Block, x: Tensor, learns: bool) -> bool:
    """Whether a block's output shall be computed in pieces rather than layer by layer.

    Args:
        block: whose layers may have been replaced, or got hooks.
        x: its input (N, C, H, W).
        learns: whether gradients are wanted.
    """
    return (
        block.grn is None
        and not _is_recorded(x)
        and _is_large(x, learns)
        and _is_bare_convolution(block.dwconv)
        and all(_is_bare(layer, nn.Linear) for layer in (block.pwconv1, block.pwconv2))
        and _is_bare(block.norm, nn.LayerNorm)
    )


def _is_recorded(x: Tensor) -> bool:
    """Whether torch records, transforms or only shapes operators: those must be torch's own."""
    return (
        type(x) is not Tensor  # one that is faked, distributed, watched
        or x.is_meta
        or torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
    )


def _is_large(x: Tensor, learns: bool) -> bool:
    if x.device.type != "cpu":
        return True
    least = TRAINED_FUSED_FROM_BYTES if learns else FUSED_FROM_BYTES
    return 4 * x.numel() * compute_dtype(x).itemsize >= least


def _is_bare(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is torch's own, so that using its parameters alone is the same."""
    has_hooks = (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )
    return (
        type(layer) is kind
        and not has_hooks
        and layer.weight is not None
        and layer.bias is not None
    )


def _is_bare_convolution(layer: nn.Module) -> bool:
    """Whether it is depthwise and keeps the size of the map, with no other geometry."""
    return (
        _is_bare(layer, nn.Conv2d)
        and layer.stride == (1, 1)
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.padding == (layer.kernel_size[0] // 2,) * 2
        and layer.groups == layer.in_channels == layer.out_channels
    )
