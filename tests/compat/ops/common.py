"""What the tests of operators share."""

from collections.abc import Callable

import torch
from torch import Tensor


def assert_rounded_once(operator: Callable[..., Tensor], *halves: Tensor) -> None:
    """Output and gradients in half precision are those in float32, rounded."""
    halves = [t.detach().requires_grad_() for t in halves]
    fulls = [t.detach().float().requires_grad_() for t in halves]
    output, expected = operator(*halves), operator(*fulls)
    output.sum().backward()
    expected.sum().backward()
    found = [output, *(t.grad for t in halves)]
    for half, full in zip(found, [expected, *(t.grad for t in fulls)], strict=True):
        assert half.dtype == halves[0].dtype
        assert torch.equal(half, full.to(half.dtype))
