"""The depthwise convolution with its own gradient of the weight, compared with torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmconvnext.models import depthwise, onednn
from mmconvnext.models.depthwise import depthwise_conv2d

SHAPES = [(2, 8, 5, 4), (1, 16, 1, 1), (2, 24, 20, 30), (1, 3, 2, 40), (0, 4, 6, 6)]


def random_arguments(shape, kernel_size=7, bias=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(shape[1], 1, kernel_size, kernel_size, generator=generator)
    shift = torch.randn(shape[1], generator=generator) if bias else None
    x = x.contiguous(memory_format=torch.channels_last)
    return [None if t is None else t.to(dtype).requires_grad_() for t in (x, weight, shift)]


def torchs(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padding = weight.shape[-1] // 2
    return functional.conv2d(x, weight, bias, padding=padding, groups=len(weight))


def with_gradients(function, arguments, grad=None) -> list[Tensor]:
    out = function(*arguments)
    inputs = [t for t in arguments if t is not None and t.requires_grad]
    grad = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype) if grad is None else grad
    return [out, *torch.autograd.grad(out, inputs, grad)]


def distance(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.fixture(params=[1, 50, 2400], ids=lambda n: f"strips of {n}")
def strips(request, monkeypatch):
    monkeypatch.setattr(depthwise, "STRIP_POSITIONS", request.param)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("strips")
def test_equals_torchs(shape, kernel_size, bias):
    arguments = random_arguments(shape, kernel_size, bias)
    ours, theirs = (with_gradients(f, arguments) for f in (depthwise_conv2d, torchs))
    assert all(distance(a, b) < 2e-6 for a, b in zip(ours, theirs, strict=True))
    assert all(a.shape == b.shape for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(dtype):
    arguments = random_arguments((2, 8, 9, 12), dtype=dtype)
    wide = [t.detach().double().requires_grad_() for t in arguments]
    ours, theirs = with_gradients(depthwise_conv2d, arguments), with_gradients(torchs, wide)
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        assert distance(a, b) < tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_what_torchs_gives(dtype):
    arguments = random_arguments((2, 16, 20, 30))
    with torch.autocast("cpu", dtype):
        ours, theirs = depthwise_conv2d(*arguments), torchs(*arguments)
    assert ours.dtype == theirs.dtype == dtype
    assert torch.equal(ours, theirs)
    pairs = zip(
        *(
            torch.autograd.grad(out, arguments, torch.ones_like(out) / 8, retain_graph=True)
            for out in (ours, theirs)
        ),
        strict=True,
    )
    for a, b in pairs:
        assert a.dtype == b.dtype == torch.float32
        assert distance(a, b) < 2e-2


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_any_memory_format(memory_format):
    x, weight, bias = random_arguments((2, 8, 9, 12))
    arguments = [x.detach().contiguous(memory_format=memory_format).requires_grad_(), weight, bias]
    grad = torch.randn(2, 8, 9, 12).contiguous(memory_format=memory_format)
    ours, theirs = (with_gradients(f, arguments, grad) for f in (depthwise_conv2d, torchs))
    assert all(distance(a, b) < 2e-6 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("frozen", range(3))
def test_any_argument_can_be_frozen(frozen):
    arguments = random_arguments((2, 8, 9, 12))
    arguments[frozen].requires_grad_(False)
    ours, theirs = (with_gradients(f, arguments) for f in (depthwise_conv2d, torchs))
    assert all(distance(a, b) < 2e-6 for a, b in zip(ours, theirs, strict=True))
    depthwise_conv2d(*arguments).sum().backward()
    assert arguments[frozen].grad is None


def test_keeps_input_and_weight_alone():
    arguments, kept = random_arguments((2, 8, 9, 12)), set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.add(tensor.data_ptr()) or tensor, lambda tensor: tensor
    ):
        depthwise_conv2d(*arguments)
    assert kept == {tensor.data_ptr() for tensor in arguments[:2]}


def test_without_onednn_it_is_torchs_own(monkeypatch):
    arguments = random_arguments((2, 8, 9, 12))
    expected = with_gradients(torchs, arguments)
    monkeypatch.setattr(onednn, "takes", lambda tensor: False)
    actual = with_gradients(depthwise_conv2d, arguments)
    assert all(distance(a, b) < 2e-6 for a, b in zip(actual, expected, strict=True))
