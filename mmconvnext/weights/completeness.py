"""Whether named tensors are a whole ConvNeXt, whichever one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmconvnext.weights.anatomy import describe
from mmconvnext.weights.matching import MisfitError, match


def fault_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Match tensors to the backbone that they themselves describe.

    Args:
        tensors: in our layout.

    Returns:
        What is missing, unexpected or of another shape; None if they are whole.
    """
    # Not at the top: the backbone's module imports this package.
    from mmconvnext.models.convnext import ConvNeXt

    kind = describe(tensors)
    try:
        with torch.device("meta"):
            own = ConvNeXt(
                {"depths": kind.depths, "widths": kind.widths},
                in_channels=kind.in_channels,
                kernel_size=kind.kernel_size,
                use_grn=kind.use_grn,
                layer_scale_init_value=float(kind.has_layer_scale),
            )
        match(own.state_dict(), tensors)
    except MisfitError as error:
        return str(error)
    except ValueError as error:  # depths or widths with a gap: whole stages or the stem are missing
        return f"it is not the whole of a ConvNeXt: {error}"
    return None
