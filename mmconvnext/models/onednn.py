"""When and how oneDNN's kernels are called directly, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def takes(tensor: Tensor) -> bool:
    """Whether oneDNN has kernels for this tensor's device and type.

    Not where somebody watches torch's operators, as counters of FLOPs do: they shall see the
    ordinary ones.
    """
    return (
        tensor.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and (tensor.dtype == torch.float32 or _takes_bfloat16(tensor.dtype))
        and not is_in_torch_dispatch_mode()
    )


def _takes_bfloat16(dtype: torch.dtype) -> bool:
    # without AVX512 its kernels for this type raise
    return dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def linear(weight: Tensor, bias: Tensor | None, num_rows: int) -> Callable[[Tensor], Tensor]:
    """A linear layer to be applied to many pieces of about ``num_rows`` rows each.

    torch's own takes MKL's kernels in float32, which are slower on some processors. oneDNN's want
    the weight in blocks; it is rearranged once for all pieces.

    Args:
        weight: (out, in).
        bias: (out,) or None.
        num_rows: the size of most pieces.

    Returns:
        A function from (rows, in), contiguous, to (rows, out). It is not differentiable.
    """
    if not takes(weight):
        return lambda x: functional.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
