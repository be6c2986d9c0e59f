"""The fused channel mixer, compared with the composition of torch's layers."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmconvnext.models import mixer
from mmconvnext.models.mixer import MixerParameters, mix

EPS = 1e-6
SHAPE = (3, 8, 5, 7)
SCALES = {"all": None, "one dropped": (1.25, 0.0, 1.25), "none left": (0.0, 0.0, 0.0)}


def plain(x: Tensor, y: Tensor, params: MixerParameters, scales=None) -> Tensor:
    """The mixer layer by layer, as torch differentiates it."""
    y = functional.layer_norm(
        y.permute(0, 2, 3, 1), y.shape[1:2], params.norm_weight, params.norm_bias, EPS
    )
    y = functional.gelu(functional.linear(y, params.weight1, params.bias1))
    y = functional.linear(y, params.weight2, params.bias2)
    if params.gamma is not None:
        y = y * params.gamma
    y = y.permute(0, 3, 1, 2)
    return x + (y if scales is None else y * torch.tensor(scales).view(-1, 1, 1, 1).to(y.dtype))


def fused(x: Tensor, y: Tensor, params: MixerParameters, scales=None) -> Tensor:
    return mix(x, y, params, EPS, (1.0,) * len(x) if scales is None else scales)


def random_arguments(
    shape=SHAPE, dtype=torch.float32, gamma=True, seed=0
) -> tuple[Tensor, Tensor, MixerParameters]:
    """Input, the convolution's output, and parameters; all require gradients."""
    generator = torch.Generator().manual_seed(seed)

    def values(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    channels = shape[1]
    params = MixerParameters(
        norm_weight=1 + 0.3 * values(channels),
        norm_bias=0.3 * values(channels),
        weight1=values(4 * channels, channels) / channels**0.5,
        bias1=values(4 * channels),
        weight2=values(channels, 4 * channels) / (4 * channels) ** 0.5,
        bias2=values(channels),
        gamma=values(channels) if gamma else None,
    )
    tensors = [values(*shape).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    for tensor in (*tensors, *params):
        if tensor is not None:
            tensor.requires_grad_()
    return *tensors, params


def leaves(x: Tensor, y: Tensor, params: MixerParameters) -> list[Tensor]:
    return [tensor for tensor in (x, y, *params) if tensor is not None]


def gradients(out: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad(out, inputs, weights)


def distance(actual: Tensor, expected: Tensor) -> float:
    """Relative in the L2 norm; 0 for two zeros."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.fixture(params=["one piece", "many pieces"])
def pieces(request, monkeypatch):
    """With few positions a piece, so that the last one of each sample is smaller."""
    if request.param == "many pieces":
        monkeypatch.setattr(mixer, "PIECE_BYTES", 0)
        monkeypatch.setattr(mixer, "MIN_POSITIONS", 4)


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("gamma", [True, False], ids=["gamma", "no gamma"])
@pytest.mark.usefixtures("pieces")
def test_equals_the_layers_one_by_one(gamma, scales):
    arguments = random_arguments(gamma=gamma)
    actual, expected = fused(*arguments, scales), plain(*arguments, scales)
    assert distance(actual, expected) < 1e-6
    inputs = leaves(*arguments)
    pairs = zip(gradients(actual, inputs), gradients(expected, inputs), strict=True)
    assert all(distance(ours, theirs) < 1e-5 for ours, theirs in pairs)


@pytest.mark.parametrize("gamma", [True, False], ids=["gamma", "no gamma"])
@pytest.mark.usefixtures("pieces")
def test_gradcheck(gamma):
    x, y, params = random_arguments((2, 3, 2, 3), torch.float64, gamma)
    present = [param is not None for param in params]

    def function(x: Tensor, y: Tensor, *values: Tensor) -> Tensor:
        iterator = iter(values)
        filled = [next(iterator) if is_there else None for is_there in present]
        return fused(x, y, MixerParameters(*filled), (1.5, 1.0))

    assert torch.autograd.gradcheck(function, leaves(x, y, params))


def test_gradient_of_a_layer_scale_of_zero():
    x, y, params = random_arguments(dtype=torch.float64)
    with torch.no_grad():
        params.gamma[::2] = 0
        params.gamma[1] = 1e-7
    inputs = leaves(x, y, params)
    ours, theirs = gradients(fused(x, y, params), inputs), gradients(plain(x, y, params), inputs)
    assert all(distance(a, b) < 1e-12 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("contiguous", itertools.product([True, False], repeat=2))
def test_any_memory_format(contiguous):
    x, y, params = random_arguments()
    expected = plain(x, y, params)
    x, y = (t.contiguous() if c else t for t, c in zip((x, y), contiguous, strict=True))
    assert distance(fused(x, y, params), expected) < 1e-6
    with torch.no_grad():
        assert distance(fused(x, y.clone(), params), expected) < 1e-6


def test_gradient_in_any_memory_format():
    arguments = random_arguments()
    inputs, out = leaves(*arguments), fused(*arguments)
    grad = torch.randn(out.shape)
    actual = torch.autograd.grad(out, inputs, grad, retain_graph=True)
    again = torch.autograd.grad(out, inputs, grad.contiguous(memory_format=torch.channels_last))
    expected = torch.autograd.grad(plain(*arguments), inputs, grad)
    for first, second, theirs in zip(actual, again, expected, strict=True):
        assert torch.equal(first, second)
        assert distance(first, theirs) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("pieces")
def test_autocast_is_as_exact_as_layer_by_layer(dtype):
    arguments = random_arguments((2, 64, 9, 11))
    wide = [None if t is None else t.detach().double().requires_grad_() for t in leaves(*arguments)]
    exact = plain(wide[0], wide[1], MixerParameters(*wide[2:]))
    truth = [exact, *gradients(exact, wide)]
    inputs, errors = leaves(*arguments), {}
    for function in (fused, plain):
        with torch.autocast("cpu", dtype):
            # the convolution's output is of the low precision
            out = function(arguments[0], arguments[1].to(dtype), arguments[2])
        assert out.dtype == torch.float32
        results = [out, *gradients(out, inputs)]
        errors[function] = [distance(a, b) for a, b in zip(results, truth, strict=True)]
    for ours, theirs in zip(errors[fused], errors[plain], strict=True):
        assert ours < 1.5 * theirs + 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_result_and_gradients_have_the_types_of_inputs(dtype):
    arguments = random_arguments(dtype=dtype)
    out, inputs = fused(*arguments), leaves(*arguments)
    assert out.dtype == dtype
    assert all(grad.dtype == dtype for grad in gradients(out, inputs))
    with torch.no_grad():
        assert fused(arguments[0], arguments[1].clone(), arguments[2]).dtype == dtype


@pytest.mark.parametrize("magnitude", [1e-4, 1e4])
def test_float16_keeps_gradients_that_the_layer_scale_brings_into_range(magnitude):
    x, y, params = random_arguments((2, 16, 9, 11))
    with torch.no_grad():
        params.gamma.fill_(1 / magnitude)
    inputs = leaves(x, y, params)[1:-1]
    found = {}
    for function in (fused, plain):
        with torch.autocast("cpu", torch.float16):
            out = function(x, y.half(), params)
        grad = torch.full_like(out, magnitude)
        found[function] = torch.autograd.grad(out, inputs, grad)
    for ours, theirs in zip(found[fused], found[plain], strict=True):
        assert theirs.isfinite().all()
        assert distance(ours, theirs) < 2e-2


def test_keeps_the_input_of_the_norm_and_nothing_else():
    x, y, params = random_arguments()
    kept = set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.add(tensor.data_ptr()) or tensor, lambda tensor: tensor
    ):
        fused(x, y, params)
    assert kept == {tensor.data_ptr() for tensor in (y, *params)}


@pytest.mark.parametrize("frozen", [*MixerParameters._fields, "x", "y"])
def test_any_part_can_be_frozen(frozen):
    x, y, params = random_arguments()
    tensors = {"x": x, "y": y, **params._asdict()}
    tensors[frozen].requires_grad_(False)
    inputs = [tensor for name, tensor in tensors.items() if name != frozen]
    ours, theirs = gradients(fused(x, y, params), inputs), gradients(plain(x, y, params), inputs)
    assert all(distance(a, b) < 1e-5 for a, b in zip(ours, theirs, strict=True))
    fused(x, y, params).sum().backward()
    assert tensors[frozen].grad is None


def test_all_frozen_needs_no_graph():
    x, y, params = random_arguments()
    for tensor in leaves(x, y, params):
        tensor.requires_grad_(False)
    before = y.clone()
    assert not fused(x, y, params).requires_grad
    assert torch.equal(y, before)  # within grad mode somebody may still want it


def test_nothing_in_nothing_out():
    x, y, params = random_arguments((0, 8, 5, 7))
    out = fused(x, y, params)
    assert out.shape == (0, 8, 5, 7)
    assert all((grad == 0).all() for grad in gradients(out, leaves(x, y, params)))


def test_a_second_derivative_is_refused():
    x, y, params = random_arguments()
    (grad,) = torch.autograd.grad(fused(x, y, params).square().sum(), y, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
