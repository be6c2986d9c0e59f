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


def linear(
    weight: Tensor, bias: Tensor | None, num_rows: int, gelu: bool = False
) -> Callable[[Tensor], Tensor]:
    """A linear layer to be applied to many pieces of about ``num_rows`` rows each.

    torch's own takes MKL's kernels in float32, which are slower on some processors. oneDNN's want
    the weight in blocks; it is rearranged once for all pieces.

    Args:
        weight: (out, in).
        bias: (out,) or None.
        num_rows: the size of most pieces.
        gelu: whether GELU follows.

    Returns:
        A function from (rows, in), contiguous, to (rows, out). It is not differentiable.
    """
    after = torch.ops.aten.gelu_ if gelu else _nothing
    if not takes(weight):
        return lambda x: after(functional.linear(x, weight, bias))
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    apply = torch.ops.mkldnn._linear_pointwise
    if gelu and weight.dtype == torch.float32:  # in bfloat16 it takes longer than a pass of its own
        return lambda x: apply(x, packed, bias, "gelu", [], "none")
    return lambda x: after(apply(x, packed, bias, "none", [], ""))


def _nothing(x: Tensor) -> Tensor:
    return x
