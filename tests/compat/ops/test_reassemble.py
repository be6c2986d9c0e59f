"""CARAFE, convolution at the places of a mask, and DyHead's larger maps of offsets."""

import pytest
import torch
from mmcv.ops import carafe, masked_conv2d, modulated_deform_conv2d
from mmdet.registry import MODELS
from torch.autograd import gradcheck
from torch.nn import functional

from tests.compat.which_mmcv import stand_in_only

on_cpu = stand_in_only("mmcv's own kernels are for GPUs")


def by_loops(features, masks, kernel, groups, scale):
    """The paper's equation, a number at a time."""
    n, c, h, w = features.shape
    output = torch.zeros(n, c, h * scale, w * scale, dtype=features.dtype)
    half = kernel // 2
    for i, k, y, x in torch.cartesian_prod(*map(torch.arange, output.shape)).tolist():
        first = k // (c // groups) * kernel**2
        for dy in range(kernel):
            for dx in range(kernel):
                row, column = y // scale + dy - half, x // scale + dx - half
                if 0 <= row < h and 0 <= column < w:
                    weight = masks[i, first + dy * kernel + dx, y, x]
                    output[i, k, y, x] += features[i, k, row, column] * weight
    return output


@on_cpu
@pytest.mark.parametrize(("kernel", "groups", "scale"), [(3, 1, 2), (5, 2, 1), (3, 4, 3)])
def test_carafe_is_the_papers(kernel, groups, scale):
    torch.manual_seed(0)
    features = torch.randn(2, 4, 3, 5, dtype=torch.double, requires_grad=True)
    masks = torch.randn(2, groups * kernel**2, 3 * scale, 5 * scale, dtype=torch.double)
    masks.requires_grad_()
    settings = (kernel, groups, scale)
    torch.testing.assert_close(
        carafe(features, masks, *settings), by_loops(features, masks, *settings)
    )
    if scale == 1:
        assert gradcheck(lambda *inputs: carafe(*inputs, *settings), (features, masks))


@on_cpu
def test_the_upsampler_of_a_neck_trains():
    necks = dict(type="FPN_CARAFE", in_channels=[8, 16], out_channels=8, num_outs=2)
    neck = MODELS.build(necks)
    outs = neck((torch.randn(1, 8, 8, 12), torch.randn(1, 16, 4, 6)))
    sum(out.square().sum() for out in outs).backward()
    assert all(p.grad is not None for p in neck.parameters())


@on_cpu
@pytest.mark.parametrize("padding", [1, (1, 0)])
def test_masked_convolution_is_one_at_its_places(padding):
    torch.manual_seed(0)
    features, weight, bias = torch.randn(1, 3, 6, 7), torch.randn(4, 3, 3, 3), torch.randn(4)
    expected = functional.conv2d(features, weight, bias, padding=padding)
    mask = torch.rand(1, 6, 7) > 0.5
    mask[:, expected.shape[2] :] = mask[:, :, expected.shape[3] :] = False
    found = masked_conv2d(features, mask, weight, bias, padding)
    places = mask[:, : expected.shape[2], : expected.shape[3]]
    torch.testing.assert_close(found, expected * places[:, None])


@on_cpu
def test_of_a_larger_map_of_offsets_the_first_values_count():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 4, 3, 4), torch.randn(4, 4, 3, 3), torch.randn(4)
    offset = torch.randn(2, 18, 6, 8, requires_grad=True)
    mask = torch.rand(2, 9, 6, 8, requires_grad=True)
    found = modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1)
    first = [t.detach().flatten(1)[:, : t[0].numel() // 4] for t in (offset, mask)]
    first = [t.reshape(2, -1, 3, 4).requires_grad_() for t in first]
    expected = modulated_deform_conv2d(x, *first, weight, bias, 1, 1)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for larger, small in zip((offset, mask), first, strict=True):
        grad = larger.grad.flatten(1)
        count = small[0].numel()
        torch.testing.assert_close(grad[:, :count], small.grad.flatten(1))
        assert not grad[:, count:].any()


@on_cpu
def test_dyhead_trains():
    neck = MODELS.build(dict(type="DyHead", in_channels=16, out_channels=16, num_blocks=1))
    outs = neck([torch.randn(1, 16, size, size) for size in (16, 8, 4)])
    sum(out.square().sum() for out in outs).backward()
    grads = [p.grad for p in neck.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
