"""torchvision's kernels, imported when the first one is needed, and what operators share."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmconvnext.errors import MissingOperatorError


@functools.cache
def kernels():
    """Import torchvision, if there is one for this torch; return ``torch.ops.torchvision``."""
    # torch.jit.trace would record what torchvision asks of its library at import, and fail.
    tracing = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        import torchvision  # noqa: F401 (registers the operators)

        torch.ops.torchvision.nms.default  # noqa: B018 (missing where its library did not load)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise MissingOperatorError(
            f"mmcv's operators need either compiled mmcv or a torchvision that matches torch "
            f"{torch.__version__}, and neither is there ({error}). Install the torchvision of the "
            "same release (https://pytorch.org/get-started/previous-versions)."
        ) from error
    finally:
        torch._C._set_tracing_state(tracing)
    return torch.ops.torchvision


def widened(tensor: Tensor) -> Tensor:
    """Return half precision as float32, anything else as it is.

    torchvision's kernels lack bfloat16 on every device and float16 on some, and coordinates lose
    whole pixels in them.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def add_gradients(function: Callable, inputs: Sequence, grad: Tensor, buffers: Sequence) -> None:
    """Add to ``buffers`` what torch finds as the gradients of a function of ``inputs``."""
    inputs = [widened(t.detach()).requires_grad_() for t in inputs]
    with torch.enable_grad():
        output = function(*inputs)
    grads = torch.autograd.grad(output, inputs, grad.to(output.dtype))
    for buffer, each in zip(buffers, grads, strict=True):
        buffer += each
