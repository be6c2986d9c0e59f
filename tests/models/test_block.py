import copy
from functools import partial

import pytest
import torch
from torch import nn

from mmconvnext.models.block import GRN, Block, LayerNorm2d
from mmconvnext.models.fused_block import FusedBlock


def normal(module: nn.Module) -> nn.Module:
    for param in module.parameters():
        nn.init.normal_(param)
    return module


def test_layer_norm_normalises_the_channels_of_each_position():
    norm = normal(LayerNorm2d(6))
    x = torch.randn(2, 6, 5, 3)
    mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    weight, bias = norm.weight.view(6, 1, 1), norm.bias.view(6, 1, 1)
    torch.testing.assert_close(norm(x), (x - mean) / (var + 1e-6).sqrt() * weight + bias)
    assert isinstance(norm, nn.LayerNorm)
    x = x.contiguous(memory_format=torch.channels_last)
    assert norm(x).is_contiguous(memory_format=torch.channels_last), "nothing is copied"


def test_grn_is_the_formula_of_the_paper():
    grn, x = normal(GRN(8)), torch.randn(2, 5, 3, 8)
    g = (x**2).sum((1, 2), keepdim=True).sqrt()
    n = g / (g.mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(grn(x), grn.gamma * (x * n) + grn.beta + x)


def test_grn_equals_timms():
    theirs = pytest.importorskip("timm.layers.grn").GlobalResponseNorm(8)
    ours, x = normal(GRN(8)), torch.randn(2, 5, 3, 8)
    theirs.load_state_dict({"weight": ours.gamma.flatten(), "bias": ours.beta.flatten()})
    torch.testing.assert_close(ours(x), theirs(x))


# In float16 the sum of 300^2 over so many positions overflows, and 1e-5^2 is 0.
POSITIONS = (200, 304)
TOLERANCES = {torch.float16: 3e-3, torch.bfloat16: 1e-2}
BLOCK_TOLERANCE = 0.1
half_precision = pytest.mark.parametrize("dtype", TOLERANCES)


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float):
    """Finite, and wrong by at most a share of the expected values, in the root mean square."""
    assert torch.isfinite(actual).all()
    assert (actual.double() - expected).norm() <= tolerance * expected.norm()


@half_precision
@pytest.mark.parametrize("magnitude", [1e-5, 1.0, 300.0])
@pytest.mark.parametrize("slope", [1e-5, 1e-3, 1.0])
def test_grn_neither_underflows_nor_overflows_in_half_precision(dtype, magnitude, slope):
    torch.manual_seed(0)
    grn = normal(GRN(4))
    exact = copy.deepcopy(grn).double()
    x = (magnitude * torch.rand(1, *POSITIONS, 4)).to(dtype).requires_grad_()
    grad = (slope * torch.rand(x.shape)).to(dtype)
    x64 = x.detach().double().requires_grad_()

    out, expected = grn(x), exact(x64)
    assert out.dtype == dtype
    assert_near(out, expected, TOLERANCES[dtype])
    out.backward(grad)
    expected.backward(grad.double())
    assert x.grad.dtype == dtype
    assert grn.gamma.grad.dtype == torch.float32
    for tensor, tensor64 in ((x, x64), (grn.gamma, exact.gamma), (grn.beta, exact.beta)):
        assert_near(tensor.grad, tensor64.grad, TOLERANCES[dtype])


@half_precision
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("kind", [Block, partial(FusedBlock, fused=True)], ids=["plain", "fused"])
@pytest.mark.parametrize(("magnitude", "slope"), [(1e-5, 1e-3), (300.0, 1e-4)])
def test_a_block_of_v2_is_safe_in_half_precision(dtype, autocast, kind, magnitude, slope):
    """With activations of this magnitude before GRN, under autocast or in half precision itself."""
    torch.manual_seed(0)
    block = kind(16, 7, nn.Identity(), layer_scale_init_value=0.0, use_grn=True)
    nn.init.normal_(block.grn.gamma)
    nn.init.normal_(block.pwconv1.weight, std=magnitude / 4)  # of 16 normalised channels
    nn.init.zeros_(block.pwconv1.bias)
    # within the range of float16 after the linear layers, too, forward and backward
    nn.init.normal_(block.pwconv2.weight, std=0.1 if magnitude > 1 else 100.0)
    x = torch.randn(1, 16, 64, 96).to(memory_format=torch.channels_last)
    if not autocast:
        block, x = block.to(dtype), x.to(dtype)
    exact = Block(16, 7, nn.Identity(), layer_scale_init_value=0.0, use_grn=True).double()
    exact.load_state_dict(block.state_dict())
    x64 = x.double().requires_grad_()
    x.requires_grad_()

    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        out = block(x)
    expected = exact(x64)
    grad = slope * torch.rand_like(expected)
    out.backward(grad.to(out.dtype))
    expected.backward(grad)
    assert_near(out, expected, BLOCK_TOLERANCE)
    assert_near(x.grad, x64.grad, BLOCK_TOLERANCE)
    for (name, param), param64 in zip(block.named_parameters(), exact.parameters(), strict=True):
        # Far off without GRN, too: on the CPU torch's LayerNorm sums them in half precision.
        tolerance = 1.0 if name.startswith("norm.") else BLOCK_TOLERANCE
        assert_near(param.grad, param64.grad, tolerance)


def test_grn_of_nothing_is_its_shift():
    grn = normal(GRN(4).double())
    x = torch.zeros(1, 3, 2, 4, dtype=torch.double, requires_grad=True)
    out = grn(x)
    assert torch.equal(out, grn.beta.expand_as(x))
    out.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("with_beta", [True, False])
def test_gradcheck_of_grn(with_beta):
    grn = GRN(4).double()
    nn.init.normal_(grn.gamma)
    grn.beta.requires_grad_(with_beta)
    x = torch.randn(2, 3, 2, 4, dtype=torch.double, requires_grad=True)
    params = [p for p in grn.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(lambda x, *_: grn(x), (x, *params))
