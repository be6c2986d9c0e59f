"""oneDNN's kernels compared with torch's own operators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from mmconvnext.models import cpu_kernels
from mmconvnext.models.cpu_kernels import depthwise_conv2d, depthwise_conv2d_backward
from tests.models.common import distance

SHAPES = [(2, 8, 5, 4), (1, 16, 1, 1), (2, 24, 20, 30), (1, 3, 2, 40), (0, 4, 6, 6)]


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("num_rows", [1, 7, 500])
def test_linear_equals_torchs(num_rows, dtype, bias, gelu):
    weight, shift = torch.randn(24, 16).to(dtype), torch.randn(24).to(dtype) if bias else None
    linear = cpu_kernels.linear(weight, shift, 500, gelu)
    x = torch.randn(num_rows, 16).to(dtype)
    expected = functional.linear(x.double(), weight.double(), shift.double() if bias else None)
    if gelu:
        expected = functional.gelu(expected)
    assert linear(x).dtype == dtype
    assert distance(linear(x), expected) < 4 * torch.finfo(dtype).eps


def test_linear_with_a_transposed_weight():
    weight, x = torch.randn(16, 24), torch.randn(9, 16)
    torch.testing.assert_close(cpu_kernels.linear(weight.t(), None, 9)(x), x @ weight)


def test_where_there_are_kernels():
    has_kernels = cpu_kernels.has_kernels
    assert has_kernels(torch.ones(1)) == torch.backends.mkldnn.is_available()
    assert not has_kernels(torch.ones(1).double())
    assert not has_kernels(torch.ones(1).half())
    assert not has_kernels(torch.empty(1, device="meta"))
    with FlopCounterMode(display=False):
        assert not has_kernels(torch.ones(1))


def convolution(shape, kernel_size=7, bias=True, dtype=torch.float32) -> list[Tensor | None]:
    """Input, weight and bias of a depthwise convolution, which require gradients."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(shape[1], 1, kernel_size, kernel_size, generator=generator)
    shift = torch.randn(shape[1], generator=generator) if bias else None
    return [None if t is None else t.to(dtype).requires_grad_() for t in (x, weight, shift)]


def gradients_of(out: Tensor, arguments: list[Tensor | None]) -> tuple[list, list]:
    """Ours and torch's for the same gradient of the output; None for what needs none."""
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    grad = grad.contiguous(memory_format=torch.channels_last)
    needed = [t is not None and t.requires_grad for t in arguments]
    wanted = [t for t, is_needed in zip(arguments, needed, strict=True) if is_needed]
    theirs = iter(torch.autograd.grad(out, wanted, grad))
    x, weight = (t.detach() for t in arguments[:2])
    ours = depthwise_conv2d_backward(x, grad, weight, needed)
    return ours, [next(theirs) if is_needed else None for is_needed in needed]


@pytest.mark.parametrize("positions", [1, 50, 2400])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolution_and_gradients_equal_torchs(shape, kernel_size, bias, positions, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "CORRELATED_POSITIONS", positions)
    x, weight, shift = arguments = convolution(shape, kernel_size, bias)
    expected = functional.conv2d(x, weight, shift, padding=kernel_size // 2, groups=len(weight))
    assert torch.equal(depthwise_conv2d(x, weight, shift), expected)
    for ours, theirs in zip(*gradients_of(expected, arguments), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.shape == theirs.shape
            assert distance(ours, theirs) < 2e-6


@pytest.mark.parametrize("frozen", range(3))
@pytest.mark.parametrize("with_kernels", [True, False])
def test_gradients_that_nobody_needs_are_left_out(frozen, with_kernels, monkeypatch):
    if not with_kernels:
        monkeypatch.setattr(cpu_kernels, "has_kernels", lambda tensor: False)
    arguments = convolution((2, 8, 9, 12))
    arguments[frozen].requires_grad_(False)
    pairs = [*zip(*gradients_of(depthwise_conv2d(*arguments), arguments), strict=True)]
    assert pairs.pop(frozen)[0] is None or not with_kernels
    assert all(distance(ours, theirs) < 2e-6 for ours, theirs in pairs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gradients_in_other_types(dtype):
    arguments = convolution((2, 8, 9, 12), dtype=dtype)
    wide = [t.detach().double().requires_grad_() for t in arguments]
    ours, _ = gradients_of(depthwise_conv2d(*arguments), arguments)
    _, theirs = gradients_of(depthwise_conv2d(*wide), wide)
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    assert all(distance(a, b) < tolerance for a, b in zip(ours, theirs, strict=True))
