import numpy as np
import pytest
import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, deform_conv2d, modulated_deform_conv2d
from torch import Tensor
from torch.autograd import gradcheck

from tests.compat.ops import references
from tests.compat.which_mmcv import stand_in_only

no_half = stand_in_only("its CPU kernels round half precision at every step, or lack it")

PLAIN = {
    "stride": (1, 1),
    "padding": (1, 1),
    "dilation": (1, 1),
    "groups": 1,
    "deform_groups": 1,
}
GEOMETRIES = {
    "plain": PLAIN,
    "stride": PLAIN | {"stride": (2, 1), "padding": (0, 2)},
    "dilation": PLAIN | {"dilation": (1, 2), "padding": (1, 2)},
    "groups": PLAIN | {"groups": 2},
    "deform_groups": PLAIN | {"deform_groups": 2},
    "all": {
        "stride": (1, 2),
        "padding": (1, 1),
        "dilation": (2, 1),
        "groups": 2,
        "deform_groups": 4,
    },
}
KERNEL = (3, 2)


@pytest.fixture(params=GEOMETRIES)
def geometry(request) -> dict:
    return GEOMETRIES[request.param]


def inputs(geometry: dict, batch: int = 2, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """A map of 5 x 6 with 4 channels; offsets up to 3 cells, so that some samples lie outside."""
    generator = torch.Generator().manual_seed(0)
    height, width = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(
            (5, 6),
            KERNEL,
            geometry["stride"],
            geometry["padding"],
            geometry["dilation"],
            strict=True,
        )
    )
    positions = geometry["deform_groups"] * KERNEL[0] * KERNEL[1]

    def draw(*shape: int, function=torch.randn) -> Tensor:
        return function(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "x": draw(batch, 4, 5, 6),
        "offset": draw(batch, 2 * positions, height, width, function=torch.rand) * 6 - 3,
        "mask": draw(batch, positions, height, width, function=torch.rand),
        "weight": draw(6, 4 // geometry["groups"], *KERNEL),
        "bias": draw(6),
    }


def deform(x, offset, weight, geometry: dict, im2col_step: int = 32) -> Tensor:
    return deform_conv2d(x, offset, weight, *geometry.values(), False, im2col_step)


def modulated(x, offset, mask, weight, bias, geometry: dict) -> Tensor:
    return modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry.values())


def test_deform_conv_equals_a_loop(geometry):
    tensors = inputs(geometry)
    x, offset, weight = (tensors[k] for k in ("x", "offset", "weight"))
    expected = references.deform_conv(*(t.numpy() for t in (x, offset, weight)), **geometry)
    np.testing.assert_allclose(deform(x, offset, weight, geometry), expected, atol=1e-10)


@pytest.mark.parametrize("with_bias", [True, False])
def test_modulated_deform_conv_equals_a_loop(geometry, with_bias):
    tensors = inputs(geometry)
    if not with_bias:
        tensors["bias"] = None
    arrays = {k: v if v is None else v.numpy() for k, v in tensors.items()}
    output = modulated(**tensors, geometry=geometry)
    np.testing.assert_allclose(output, references.deform_conv(**arrays, **geometry), atol=1e-10)


def test_the_gradients_of_deform_conv_are_its_derivatives(geometry):
    tensors = inputs(geometry)
    leaves = [tensors[k].requires_grad_() for k in ("x", "offset", "weight")]
    assert gradcheck(lambda *a: deform(*a, geometry), leaves, fast_mode=True)


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_gradients_of_modulated_deform_conv_are_its_derivatives(geometry, with_bias):
    tensors = inputs(geometry)
    names = [k for k in tensors if with_bias or k != "bias"]

    def call(*leaves: Tensor) -> Tensor:
        return modulated(
            **{"bias": None} | dict(zip(names, leaves, strict=True)), geometry=geometry
        )

    assert gradcheck(call, [tensors[k].requires_grad_() for k in names], fast_mode=True)


@pytest.mark.parametrize("kind", ["deform", "modulated"])
def test_equals_torchvisions(geometry, kind):
    ops = pytest.importorskip("torchvision.ops")
    tensors = inputs(geometry, dtype=torch.float32)
    own = {k: v.clone().requires_grad_() for k, v in tensors.items()}
    theirs = {k: v.clone().requires_grad_() for k, v in tensors.items()}
    sides = {k: geometry[k] for k in ("stride", "padding", "dilation")}
    if kind == "deform":
        output = deform(own["x"], own["offset"], own["weight"], geometry)
        expected = ops.deform_conv2d(theirs["x"], theirs["offset"], theirs["weight"], **sides)
    else:
        output = modulated(**own, geometry=geometry)
        expected = ops.deform_conv2d(theirs.pop("x"), **theirs, **sides)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("im2col_step", [1, 2, 32])
def test_the_step_of_mmcvs_own_way_changes_nothing(im2col_step):
    results = []
    for step in (4, im2col_step):
        tensors = inputs(PLAIN, batch=4)
        leaves = [tensors[k].requires_grad_() for k in ("x", "offset", "weight")]
        output = deform(*leaves, PLAIN, step)
        output.square().sum().backward()
        results.append([output, *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", ["x", "offset", "weight"])
def test_a_gradient_is_the_same_where_no_other_is_asked_for(name):
    every, alone = inputs(PLAIN), inputs(PLAIN)
    for key in ("x", "offset", "weight"):
        every[key].requires_grad_()
    alone[name].requires_grad_()
    for tensors in (every, alone):
        deform(tensors["x"], tensors["offset"], tensors["weight"], PLAIN).square().sum().backward()
    torch.testing.assert_close(alone[name].grad, every[name].grad)


@pytest.mark.parametrize("layer_class", [DeformConv2d, ModulatedDeformConv2d])
def test_without_offsets_it_is_a_convolution(layer_class):
    torch.manual_seed(0)
    layer = layer_class(4, 6, 3, stride=2, padding=1, groups=2)
    x, offset = torch.randn(2, 4, 7, 8), torch.zeros(2, 18, 4, 4)
    mask = [torch.ones(2, 9, 4, 4)] if layer_class is ModulatedDeformConv2d else []
    expected = torch.nn.functional.conv2d(x, layer.weight, stride=2, padding=1, groups=2)
    torch.testing.assert_close(layer(x, offset, *mask), expected)


def test_a_map_smaller_than_the_kernel():
    torch.manual_seed(0)
    layer = DeformConv2d(4, 6, 5, padding=2)
    x = torch.randn(1, 4, 3, 6)
    expected = torch.nn.functional.conv2d(x, layer.weight, padding=2)
    torch.testing.assert_close(layer(x, torch.zeros(1, 50, 3, 6)), expected)


@no_half
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["deform", "modulated"])
def test_half_precision_is_rounded_once(kind, dtype):
    names = ["x", "offset", "weight"] if kind == "deform" else list(inputs(PLAIN))
    half = {k: v.requires_grad_() for k, v in inputs(PLAIN, dtype=dtype).items() if k in names}
    full = {k: v.detach().float().requires_grad_() for k, v in half.items()}
    function = deform if kind == "deform" else modulated
    output, expected = function(**half, geometry=PLAIN), function(**full, geometry=PLAIN)
    output.sum().backward()
    expected.sum().backward()
    assert output.dtype == dtype
    assert torch.equal(output, expected.to(dtype))
    for name in names:
        assert torch.equal(half[name].grad, full[name].grad.to(dtype)), name


@stand_in_only("mmcv's Python code divides by an empty batch")
@pytest.mark.parametrize("layer_class", [DeformConv2d, ModulatedDeformConv2d])
def test_an_empty_batch_is_refused_before_it_reaches_the_kernel(layer_class):
    layer = layer_class(4, 6, 3, padding=1)
    maps = [torch.zeros(0, channels, 5, 6) for channels in (4, 18, 9)]
    with pytest.raises(ValueError, match="convolution input is too small"):
        layer(*maps[: 3 if layer_class is ModulatedDeformConv2d else 2])
