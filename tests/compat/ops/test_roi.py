import functools

import numpy as np
import pytest
import torch
from mmcv.ops import RoIAlign, RoIPool, roi_align, roi_pool
from torch import Tensor
from torch.autograd import gradcheck

from mmconvnext.errors import MissingOperatorError
from tests.compat.ops import references
from tests.compat.which_mmcv import stand_in_only

no_kernel = stand_in_only("its RoIPool has no kernel for the CPU")
no_half = stand_in_only("its CPU kernels take no bfloat16, and round float16 at every step")

# image, x1 y1 x2 y2 in pixels of a map of 8 x 10 cells of 4 pixels: within a cell, across the
# border, the whole image, outside of it, without area
REGIONS = [
    [0, 3.3, 5.1, 17.9, 22.4],
    [1, 9.2, 9.4, 10.9, 11.1],
    [1, -7.5, 4.0, 12.2, 40.3],
    [0, 0.0, 0.0, 40.0, 32.0],
    [1, 60.0, 50.0, 70.0, 66.0],
    [0, 12.0, 12.0, 12.0, 12.0],
]


def features(dtype: torch.dtype = torch.float64) -> Tensor:
    """Two images of three channels whose values all differ, so that a maximum has one place."""
    values = torch.randperm(2 * 3 * 8 * 10, generator=torch.Generator().manual_seed(0))
    return (values.reshape(2, 3, 8, 10) / 48 - 5).to(dtype)


def regions(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(REGIONS, dtype=dtype)


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(7, 7), (2, 3)])
def test_roi_align_equals_mmcvs_loop(size, aligned, sampling_ratio):
    layer = RoIAlign(size, 0.25, sampling_ratio, aligned=aligned)
    expected = references.roi_align(
        features().numpy(), regions().numpy(), size, 0.25, sampling_ratio, aligned
    )
    output = layer(features(), regions())
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-10)
    assert not output[4].any()


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_equals_torchvisions(aligned, sampling_ratio):
    ops = pytest.importorskip("torchvision.ops")
    x, rois = features(torch.float32), regions(torch.float32)
    grads = []
    for function in (
        RoIAlign(5, 0.25, sampling_ratio, aligned=aligned),
        functools.partial(
            ops.roi_align,
            output_size=5,
            spatial_scale=0.25,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
        ),
    ):
        leaf = x.clone().requires_grad_()
        output = function(leaf, rois)
        (output * torch.arange(output.numel()).reshape(output.shape)).sum().backward()
        grads.append((output.detach(), leaf.grad))
    (own, own_grad), (theirs, their_grad) = grads
    torch.testing.assert_close(own, theirs)
    torch.testing.assert_close(own_grad, their_grad)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_the_gradient_of_roi_align_is_its_derivative(aligned, sampling_ratio):
    x = features()[:, :1].requires_grad_()
    assert gradcheck(
        lambda x: roi_align(x, regions(), (2, 3), 0.25, sampling_ratio, "avg", aligned), x
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_roi_align_does_not_mind_the_layout(memory_format):
    leaf = features(torch.float32).to(memory_format=memory_format).requires_grad_()
    output = RoIAlign(3, 0.25)(leaf, regions(torch.float32))
    output.transpose(2, 3).square().sum().backward()
    plain = features(torch.float32).requires_grad_()
    expected = RoIAlign(3, 0.25)(plain, regions(torch.float32))
    expected.square().sum().backward()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(leaf.grad, plain.grad)


def random_regions(count: int, far: float = 0.0) -> Tensor:
    """Regions in and around a map of 40 x 60 cells of 4 pixels, from tiny to larger than it."""
    generator = torch.Generator().manual_seed(count)
    centres = torch.rand(count, 2, generator=generator) * torch.tensor([240.0, 160.0])
    sizes = torch.rand(count, 2, generator=generator).pow(3) * 300 + far
    images = torch.randint(2, (count, 1), generator=generator)
    return torch.cat([images, centres - sizes / 2, centres + sizes / 2], 1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("rois", [random_regions(60), random_regions(5, far=2e3)], ids=len)
def test_roi_align_of_random_regions_equals_torchvisions(
    rois, aligned, sampling_ratio, memory_format
):
    ops = pytest.importorskip("torchvision.ops")
    x = torch.randn(2, 32, 40, 60, generator=torch.Generator().manual_seed(0))
    results = []
    for function in (roi_align, ops.roi_align):
        leaf = x.to(memory_format=memory_format).requires_grad_()
        options = (
            (sampling_ratio, "avg", aligned) if function is roi_align else (sampling_ratio, aligned)
        )
        output = function(leaf, rois, (7, 7), 0.25, *options)
        output.square().sum().backward()
        results.append((output.detach(), leaf.grad))
    for own, theirs in zip(*results, strict=True):
        assert (own - theirs).norm() < 1e-5 * theirs.norm()


def test_roi_align_of_no_regions_and_of_no_numbers():
    x = features(torch.float32).requires_grad_()
    output = roi_align(x, torch.empty(0, 5), (3, 3), 0.25, 0, "avg", True)
    assert output.shape == (0, 3, 3, 3)
    output.sum().backward()
    assert not x.grad.any()
    roi_align(x, torch.full((1, 5), torch.nan).index_fill(1, torch.tensor(0), 0), (3, 3), 0.25)


@stand_in_only("it has this mode")
def test_the_maximum_mode_of_roi_align_is_refused():
    with pytest.raises(MissingOperatorError, match=r"pool_mode='max' is not available.*'avg'"):
        RoIAlign(3, pool_mode="max")(features(), regions())


@no_kernel
@pytest.mark.parametrize("scale", [0.25, 0.11])
@pytest.mark.parametrize("size", [(3, 3), (2, 5)])
def test_roi_pool_equals_mmcvs_loop(size, scale):
    output = RoIPool(size, scale)(features(), regions())
    expected = references.roi_pool(features().numpy(), regions().numpy(), size, scale)
    np.testing.assert_array_equal(output.numpy(), expected)


@no_kernel
def test_the_gradient_of_roi_pool_is_its_derivative():
    x = features()[:, :2].requires_grad_()
    assert gradcheck(lambda x: roi_pool(x, regions(), (2, 3), 0.25), x, fast_mode=True)


@no_kernel
def test_the_gradient_of_roi_pool_goes_to_the_first_of_equal_cells():
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    RoIPool(1, 1.0)(x, torch.tensor([[0.0, 1, 1, 2, 2]])).backward()
    assert x.grad.nonzero().tolist() == [[0, 0, 1, 1]]


@no_kernel
def test_roi_pool_is_zero_where_a_region_has_no_extent():
    x = features(torch.float32).requires_grad_()
    # in the second, the lower corner's cell still comes before the upper one's
    output = RoIPool(1, 0.25)(x, torch.tensor([[0, 8, 8, 2, 2], [0, 7.2, 7.2, 3.8, 3.8]]))
    output.sum().backward()
    assert not output.any()
    assert not x.grad.any()


@no_half
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", [RoIAlign(3, 0.25), RoIPool(3, 0.25)])
def test_half_precision_is_rounded_once(layer, dtype):
    half = features(dtype).requires_grad_()
    rois = regions(dtype)
    output = layer(half, rois)
    output.sum().backward()
    full = half.detach().float().requires_grad_()
    expected = layer(full, rois.float())
    expected.sum().backward()
    assert output.dtype == half.grad.dtype == dtype
    assert torch.equal(output, expected.to(dtype))
    assert torch.equal(half.grad, full.grad.to(dtype))


@no_half
def test_regions_keep_their_precision_beside_half_precision_features():
    rois = torch.tensor([[0.0, 1001.3, 1003.7, 1020.2, 1030.9]])  # to 0.5 in float16, 8 in bfloat16
    x = features(torch.bfloat16)
    expected = RoIAlign(3, 0.009)(x.float(), rois)
    assert torch.equal(RoIAlign(3, 0.009)(x, rois), expected.bfloat16())


@no_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_last_pixel_of_a_region_counts_in_half_precision_too(dtype):
    x = torch.arange(80).reshape(1, 1, 8, 10).to(dtype)
    rois = torch.tensor([[0, 0, 0, 300, 300]], dtype=dtype)  # bfloat16 has no 301
    assert RoIPool(1, 7 / 300)(x, rois).item() == 77


@pytest.mark.parametrize("layer", [RoIAlign(3), pytest.param(RoIPool(3), marks=no_kernel)])
def test_no_regions_at_all(layer):
    x = features(torch.float32).requires_grad_()
    output = layer(x, torch.zeros(0, 5))
    assert output.shape == (0, 3, 3, 3)
    output.sum().backward()
    assert not x.grad.any()
