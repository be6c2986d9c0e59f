import numpy as np
import pytest
import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, deform_conv2d, modulated_deform_conv2d
from torch import Tensor
from torch.autograd import gradcheck

from tests.compat.ops import references
from tests.compat.ops.common import assert_rounded_once
from tests.compat.which_mmcv import stand_in_only

no_half = stand_in_only("its CPU kernels round half precision at every step, or lack it")

PLAIN = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "deform_groups": 1}
GEOMETRIES = {
    "plain": PLAIN,
    "stride": PLAIN | {"stride": (2, 1), "padding": (0, 2)},
    "dilation": PLAIN | {"dilation": (1, 2), "padding": (1, 2)},
    "groups": PLAIN | {"groups": 2},
    "deform_groups": PLAIN | {"deform_groups": 2},
    "all": PLAIN | {"stride": (1, 2), "dilation": (2, 1), "groups": 2, "deform_groups": 4},
}
KERNEL = (3, 2)
KINDS = {
    "deform": ("x", "offset", "weight"),
    "modulated": ("x", "offset", "weight", "mask", "bias"),
    "modulated without bias": ("x", "offset", "weight", "mask"),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(params=GEOMETRIES)
def geometry(request) -> dict:
    return GEOMETRIES[request.param]


def inputs(kind: str, geometry: dict, batch: int = 2, dtype=torch.float64) -> dict[str, Tensor]:
    """A map of 5 x 6 with 4 channels; offsets up to 3 cells, so that some samples lie outside."""
    generator = torch.Generator().manual_seed(0)
    height, width = (
        (size + 2 * geometry["padding"][i] - geometry["dilation"][i] * (KERNEL[i] - 1) - 1)
        // geometry["stride"][i]
        + 1
        for i, size in enumerate((5, 6))
    )
    positions = geometry["deform_groups"] * KERNEL[0] * KERNEL[1]

    def draw(*shape: int, function=torch.randn) -> Tensor:
        return function(*shape, generator=generator, dtype=torch.float64)

    tensors = {
        "x": draw(batch, 4, 5, 6),
        "offset": draw(batch, 2 * positions, height, width, function=torch.rand) * 6 - 3,
        "mask": draw(batch, positions, height, width, function=torch.rand),
        "weight": draw(6, 4 // geometry["groups"], *KERNEL),
        "bias": draw(6),
    }
    return {name: tensors[name].to(dtype).requires_grad_() for name in KINDS[kind]}


def convolve(tensors: dict[str, Tensor], geometry: dict) -> Tensor:
    x, offset, weight, mask, bias = (tensors.get(name) for name in KINDS["modulated"])
    if mask is None:
        return deform_conv2d(x, offset, weight, *geometry.values())
    return modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry.values())


@each_kind
def test_it_equals_a_loop(geometry, kind):
    tensors = inputs(kind, geometry)
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    output = convolve(tensors, geometry).detach()
    np.testing.assert_allclose(output, references.deform_conv(**arrays, **geometry), atol=1e-10)


@each_kind
def test_the_gradients_are_its_derivatives(geometry, kind):
    tensors = inputs(kind, geometry)

    def call(*leaves: Tensor) -> Tensor:
        return convolve(dict(zip(tensors, leaves, strict=True)), geometry)

    assert gradcheck(call, list(tensors.values()), fast_mode=True)


@pytest.mark.parametrize("name", KINDS["deform"])
def test_a_gradient_is_the_same_where_no_other_is_asked_for(name):
    every, alone = inputs("deform", PLAIN), inputs("deform", PLAIN)
    alone = {key: tensor.requires_grad_(key == name) for key, tensor in alone.items()}
    for tensors in (every, alone):
        convolve(tensors, PLAIN).square().sum().backward()
    torch.testing.assert_close(alone[name].grad, every[name].grad)


@pytest.mark.parametrize("size", [(7, 8), (3, 6)])  # the second is smaller than the kernel
@pytest.mark.parametrize("layer_class", [DeformConv2d, ModulatedDeformConv2d])
def test_without_offsets_it_is_a_convolution(layer_class, size):
    torch.manual_seed(0)
    layer = layer_class(4, 6, 5, padding=2, groups=2)
    x = torch.randn(2, 4, *size)
    expected = torch.nn.functional.conv2d(x, layer.weight, padding=2, groups=2)
    offset = torch.zeros(2, 50, *expected.shape[2:])
    mask = [torch.ones_like(offset[:, :25])] if layer_class is ModulatedDeformConv2d else []
    torch.testing.assert_close(layer(x, offset, *mask), expected)


@no_half
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_kind
def test_half_precision_is_rounded_once(kind, dtype):
    names, tensors = zip(*inputs(kind, PLAIN, dtype=dtype).items(), strict=True)
    assert_rounded_once(lambda *t: convolve(dict(zip(names, t, strict=True)), PLAIN), *tensors)
