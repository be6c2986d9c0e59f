"""Whether named tensors are a whole ConvNeXt, whichever one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmconvnext.variants import resolve_arch
from mmconvnext.weights.anatomy import Anatomy, describe
from mmconvnext.weights.matching import MisfitError, match


def fault_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Match tensors to the backbone that they themselves describe.

    Args:
        tensors: in our layout.

    Returns:
        What is missing, unexpected or of another shape; None if they are whole.
    """
    try:
        match(expected(describe(tensors)), tensors)
    except MisfitError as error:
        return str(error)
    except ValueError as error:  # depths or widths with a gap: whole stages or the stem are missing
        return f"it is not the whole of a ConvNeXt: {error}"
    return None


def expected(kind: Anatomy) -> dict[str, Tensor]:
    """The state dict of a backbone of a kind, with the output norms of all stages, without memory.

    Raises:
        ValueError: its depths or widths are not those of four stages, or it has no stem.
    """
    depths, widths = resolve_arch({"depths": kind.depths, "widths": kind.widths})
    if not kind.in_channels:
        raise ValueError("the stem is missing")
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]

    add("downsample_layers.0.0", widths[0], kind.in_channels, 4, 4)
    add("downsample_layers.0.1", widths[0])
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            add(f"downsample_layers.{stage}.0", widths[stage - 1])
            add(f"downsample_layers.{stage}.1", width, widths[stage - 1], 2, 2)
        add(f"norm{stage}", width)
        for block in (f"stages.{stage}.{index}" for index in range(depth)):
            add(f"{block}.dwconv", width, 1, kind.kernel_size, kind.kernel_size)
            add(f"{block}.norm", width)
            add(f"{block}.pwconv1", 4 * width, width)
            add(f"{block}.pwconv2", width, 4 * width)
            if kind.has_layer_scale:
                shapes[f"{block}.gamma"] = (width,)
            if kind.use_grn:
                names = (f"{block}.grn.gamma", f"{block}.grn.beta")
                shapes |= dict.fromkeys(names, (1, 1, 1, 4 * width))
    return {name: torch.empty(size, device="meta") for name, size in shapes.items()}
