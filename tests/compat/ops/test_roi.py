import numpy as np
import pytest
import torch
from mmcv.ops import RoIAlign, RoIPool, roi_align, roi_pool
from torch import Tensor
from torch.autograd import gradcheck

from mmconvnext.errors import MissingOperatorError
from tests.compat.ops import references
from tests.compat.ops.common import assert_rounded_once
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
    return (values.reshape(2, 3, 8, 10) / 48 - 5).to(dtype).requires_grad_()


def regions(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(REGIONS, dtype=dtype)


def random_regions(count: int, far: float = 0.0) -> Tensor:
    """Regions in and around a map of 40 x 60 cells of 4 pixels, from tiny to larger than it."""
    generator = torch.Generator().manual_seed(count)
    centres = torch.rand(count, 2, generator=generator) * torch.tensor([240.0, 160.0])
    sizes = torch.rand(count, 2, generator=generator).pow(3) * 300 + far
    images = torch.randint(2, (count, 1), generator=generator)
    return torch.cat([images, centres - sizes / 2, centres + sizes / 2], 1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("bins", [(7, 7), (2, 3)])
@pytest.mark.parametrize(
    ("rois", "shape"),
    [
        (regions(), (2, 3, 8, 10)),
        (random_regions(60), (2, 32, 40, 60)),
        (random_regions(5, far=2e3), (2, 32, 40, 60)),
    ],
    ids=["edge cases", "random", "far"],
)
def test_roi_align_equals_torchvisions(rois, shape, bins, aligned, sampling_ratio, memory_format):
    ops = pytest.importorskip("torchvision.ops")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=rois.dtype)
    results = []
    for function, mode in ((roi_align, ["avg"]), (ops.roi_align, [])):
        leaf = x.to(memory_format=memory_format).requires_grad_()
        output = function(leaf, rois, bins, 0.25, sampling_ratio, *mode, aligned)
        (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum().backward()
        results.append((output.detach(), leaf.grad))
    tolerance = 1e-12 if x.dtype == torch.float64 else 1e-5
    for own, theirs in zip(*results, strict=True):
        assert (own - theirs).norm() <= tolerance * theirs.norm()


def test_roi_align_of_no_numbers():
    rois = torch.full((1, 5), torch.nan).index_fill(1, torch.tensor(0), 0)
    assert roi_align(features(torch.float32), rois, (3, 3), 0.25).shape == (1, 3, 3, 3)


@stand_in_only("it has this mode")
def test_the_maximum_mode_of_roi_align_is_refused():
    with pytest.raises(MissingOperatorError, match=r"pool_mode='max' is not available.*'avg'"):
        RoIAlign(3, pool_mode="max")(features(), regions())


@no_kernel
@pytest.mark.parametrize("scale", [0.25, 0.11])
@pytest.mark.parametrize("size", [(3, 3), (2, 5)])
def test_roi_pool_equals_mmcvs_loop(size, scale):
    x = features().detach()
    expected = references.roi_pool(x.numpy(), regions().numpy(), size, scale)
    np.testing.assert_array_equal(RoIPool(size, scale)(x, regions()).numpy(), expected)


@no_kernel
def test_the_gradient_of_roi_pool_is_its_derivative():
    x = features()[:, :2]
    assert gradcheck(lambda x: roi_pool(x, regions(), (2, 3), 0.25), x, fast_mode=True)


@no_kernel
def test_the_gradient_of_roi_pool_goes_to_the_first_of_equal_cells():
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    RoIPool(1, 1.0)(x, torch.tensor([[0.0, 1, 1, 2, 2]])).backward()
    assert x.grad.nonzero().tolist() == [[0, 0, 1, 1]]


@no_kernel
def test_roi_pool_is_zero_where_a_region_has_no_extent():
    x = features(torch.float32)
    # in the second, the lower corner's cell still comes before the upper one's
    output = RoIPool(1, 0.25)(x, torch.tensor([[0, 8, 8, 2, 2], [0, 7.2, 7.2, 3.8, 3.8]]))
    output.sum().backward()
    assert not output.any()
    assert not x.grad.any()


@no_half
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", [RoIAlign(3, 0.25), RoIPool(3, 0.25)])
def test_half_precision_is_rounded_once(layer, dtype):
    rois = regions(dtype)
    assert_rounded_once(lambda x: layer(x, rois.to(x.dtype)), features(dtype))


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
    x = features(torch.float32)
    output = layer(x, torch.zeros(0, 5))
    assert output.shape == (0, 3, 3, 3)
    output.sum().backward()
    assert not x.grad.any()
