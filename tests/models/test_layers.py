import pytest
import torch
from torch import nn
from torch.nn import functional

from mmconvnext.models.layers import GRN, Block, LayerNorm2d


def test_layer_norm_normalises_the_channels_of_each_position():
    norm = LayerNorm2d(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 5, 3)
    mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    expected = (x - mean) / (var + 1e-6).sqrt() * norm.weight.view(6, 1, 1) + norm.bias.view(
        6, 1, 1
    )
    torch.testing.assert_close(norm(x), expected)
    assert isinstance(norm, nn.LayerNorm)


def test_layer_norm_copies_nothing_in_channels_last():
    x = torch.randn(2, 6, 5, 3).contiguous(memory_format=torch.channels_last)
    assert LayerNorm2d(6)(x).is_contiguous(memory_format=torch.channels_last)


def test_grn_is_the_formula_of_the_paper():
    grn = GRN(8)
    nn.init.normal_(grn.gamma)
    nn.init.normal_(grn.beta)
    x = torch.randn(2, 5, 3, 8)
    g = (x**2).sum((1, 2), keepdim=True).sqrt()
    n = g / (g.mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(grn(x), grn.gamma * (x * n) + grn.beta + x)


def test_grn_equals_timms():
    timm_grn = pytest.importorskip("timm.layers.grn").GlobalResponseNorm(8)
    ours = GRN(8)
    with torch.no_grad():
        for a, b in ((ours.gamma, timm_grn.weight), (ours.beta, timm_grn.bias)):
            b.copy_(nn.init.normal_(a).flatten())
    x = torch.randn(2, 5, 3, 8)
    torch.testing.assert_close(ours(x), timm_grn(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("magnitude", [1e-3, 300.0])
def test_grn_neither_underflows_nor_overflows_in_half_precision(dtype, magnitude):
    grn = GRN(8)
    nn.init.ones_(grn.gamma)
    x = magnitude * torch.randn(1, 40, 40, 8)
    out = grn(x.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), grn(x.to(dtype).float()), rtol=2e-2, atol=1e-5)


def test_gradcheck_of_a_block_with_everything():
    block = Block(4, 3, nn.Identity(), layer_scale_init_value=0.5, use_grn=True).double()
    for param in block.parameters():
        nn.init.normal_(param)
    x = torch.randn(2, 4, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


def test_a_block_is_the_sum_of_input_and_branch():
    block = Block(4, 7, nn.Identity(), layer_scale_init_value=1.0, use_grn=False)
    x = torch.randn(1, 4, 9, 9)
    y = block.dwconv(x).permute(0, 2, 3, 1)
    y = functional.layer_norm(y, (4,), block.norm.weight, block.norm.bias, 1e-6)
    y = block.pwconv2(functional.gelu(block.pwconv1(y))) * block.gamma
    torch.testing.assert_close(block(x), x + y.permute(0, 3, 1, 2))


def test_layer_scale_of_zero_is_none():
    block = Block(4, 7, nn.Identity(), layer_scale_init_value=0, use_grn=False)
    assert block.gamma is None
    assert "gamma" not in dict(block.named_parameters())
